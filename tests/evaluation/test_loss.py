import math
import random

import pytest
import torch

from helpers import make_model
from lorascope.data.tokenization import IGNORED, TokenizedSplit
from lorascope.evaluation.loss import batches, eval_loss


@pytest.fixture(scope="module")
def data() -> TokenizedSplit:
    draw = random.Random(0)
    ids, labels = [], []
    for _ in range(17):
        length = draw.randint(3, 40)
        row = [draw.randrange(4, 260) for _ in range(length)]
        start = draw.randrange(0, length - 1)
        ids.append(row)
        labels.append([IGNORED] * start + row[start:])
    return TokenizedSplit(tuple(ids), tuple(labels), "hash")


def token_by_token(model, data: TokenizedSplit) -> tuple[float, int]:
    """The definition, row by row: -log p(token | what stands before it), without padding or batches."""
    total, tokens = 0.0, 0
    with torch.no_grad():
        for ids, labels in zip(data.input_ids, data.labels, strict=True):
            probabilities = torch.softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)
            for position in range(1, len(ids)):
                if labels[position] != IGNORED:
                    total -= math.log(probabilities[position - 1, ids[position]].item())
                    tokens += 1
    return total, tokens


def test_the_loss_is_the_summed_log_likelihood_over_supervised_tokens(data):
    model = make_model().eval()
    nats, tokens = token_by_token(model, data)
    loss = eval_loss(model, data, pad_id=0)
    assert loss.tokens == tokens == data.supervised_tokens
    assert loss.nats == pytest.approx(nats, rel=1e-6)


@pytest.mark.parametrize("batch_tokens", [1, 50, 200, 10_000])
def test_the_loss_does_not_depend_on_the_batch_size(data, batch_tokens):
    model = make_model()
    whole = eval_loss(model, data, pad_id=0)
    assert eval_loss(model, data, pad_id=0, batch_tokens=batch_tokens).mean == pytest.approx(whole.mean, rel=1e-6)


def test_the_mean_of_batch_means_would_be_another_number(data):
    """The control: what transformers' own evaluation computes does depend on the batches."""
    model = make_model().eval()
    means = []
    with torch.no_grad():
        for ids, labels in zip(data.input_ids, data.labels, strict=True):
            means.append(model(torch.tensor([ids]), labels=torch.tensor([labels])).loss.item())
    assert abs(sum(means) / len(means) - eval_loss(model, data, pad_id=0).mean) > 1e-4


def test_every_row_is_in_one_batch_and_batches_keep_their_size(data):
    seen = list(batches([*map(len, data.input_ids)], 100))
    assert sorted(row for batch in seen for row in batch) == list(range(len(data)))
    for batch in seen:
        assert len(batch) == 1 or len(batch) * max(len(data.input_ids[row]) for row in batch) <= 100


def test_a_non_finite_row_is_not_dropped(data):
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight[data.input_ids[0][-1]] = float("inf")
    assert not math.isfinite(eval_loss(model, data, pad_id=0).nats)


def test_the_model_keeps_its_mode(data):
    for mode in (True, False):
        model = make_model().train(mode)
        eval_loss(model, data, pad_id=0)
        assert model.training is mode


def test_dropout_is_off(data):
    model = make_model(attention_dropout=0.5).train()
    assert eval_loss(model, data, pad_id=0).nats == eval_loss(model, data, pad_id=0).nats
