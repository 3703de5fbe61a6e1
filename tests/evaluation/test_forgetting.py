import random

import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers import make_model, make_tokenizer
from lorascope.config.schema import ForgettingConfig
from lorascope.data.tokenization import TokenizedSplit
from lorascope.evaluation.forgetting import corpus, divergence, own_texts
from lorascope.evaluation.loss import eval_loss

SETTINGS = ForgettingConfig(texts=10, tokens=12)


def adapted(size: float):
    """A tiny model with an adapter that does something."""
    model = get_peft_model(make_model(), LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=size)
    return model.eval()


@pytest.fixture(scope="module")
def texts() -> TokenizedSplit:
    draw = random.Random(0)
    rows = tuple([draw.randrange(4, 260) for _ in range(draw.randrange(2, 14))] for _ in range(7))
    return TokenizedSplit(rows, rows, "")


def by_definition(model, texts: TokenizedSplit) -> float:
    """The mean over positions of the sum over tokens of p log(p / q), text by text, in float64."""
    total, positions = 0.0, 0
    for row in texts.input_ids:
        ids = torch.tensor([row])
        with torch.no_grad():
            other = torch.softmax(model(ids).logits[0, :-1].double(), dim=-1)
            with model.disable_adapter():
                base = torch.softmax(model(ids).logits[0, :-1].double(), dim=-1)
        total += (base * (base / other).log()).sum().item()
        positions += len(row) - 1
    return total / positions


@pytest.mark.parametrize("batch_tokens", [1, 30, 1000])
def test_the_divergence_is_the_mean_over_positions_whatever_the_batch(texts, batch_tokens):
    model = adapted(0.5)
    expected = by_definition(model, texts)
    assert expected > 1e-3
    assert divergence(model, texts, 0, batch_tokens) == pytest.approx(expected, rel=1e-4)


def test_an_adapter_that_does_nothing_has_forgotten_nothing(texts):
    assert divergence(adapted(0.0), texts, 0, 100) == pytest.approx(0.0, abs=1e-7)


def test_a_long_batch_is_taken_in_parts(texts, monkeypatch):
    model = adapted(0.5)
    whole = divergence(model, texts, 0, 1000)
    monkeypatch.setattr("lorascope.evaluation.forgetting.LOGITS", 700)  # two positions of 300 tokens
    assert divergence(model, texts, 0, 1000) == pytest.approx(whole, rel=1e-5)


def test_the_texts_are_drawn_from_the_base():
    """Their loss is the base's own entropy, which an independent estimate gives: exactly, over all next tokens."""
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight.mul_(40)  # far from even
    drawn = own_texts(model, make_tokenizer(), ForgettingConfig(texts=300, tokens=6))
    entropy, positions = 0.0, 0
    with torch.no_grad():
        for row in drawn.input_ids:
            chances = torch.softmax(model(torch.tensor([row])).logits[0, :-1].double(), dim=-1)
            entropy -= (chances * chances.clamp_min(1e-300).log()).sum().item()
            positions += len(row) - 1
    assert eval_loss(model, drawn, pad_id=0, batch_tokens=1000).mean == pytest.approx(entropy / positions, rel=0.05)


def test_the_added_loss_on_the_bases_own_texts_estimates_the_divergence():
    model = adapted(0.6)
    with model.disable_adapter():
        drawn = own_texts(model, make_tokenizer(), ForgettingConfig(texts=600, tokens=8))
        before = eval_loss(model, drawn, pad_id=0, batch_tokens=1000).mean
    added = eval_loss(model, drawn, pad_id=0, batch_tokens=1000).mean - before
    assert added == pytest.approx(divergence(model, drawn, 0, 1000), rel=0.2)


def test_the_same_seed_draws_the_same_texts_and_leaves_the_randomness_alone():
    model, tokenizer = make_model(), make_tokenizer()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = own_texts(model, tokenizer, SETTINGS)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(6)
    assert own_texts(model, tokenizer, SETTINGS) == first
    assert own_texts(model, tokenizer, ForgettingConfig(texts=10, tokens=12, seed=1)) != first


def test_a_text_goes_on_where_the_model_would_end_it():
    model, tokenizer = make_model(), make_tokenizer()
    model.generation_config.eos_token_id = list(range(0, 300, 2))
    drawn = own_texts(model, tokenizer, SETTINGS)
    assert [len(row) for row in drawn.input_ids] == [13] * 10  # behind the token that begins a text
    assert model.generation_config.eos_token_id == list(range(0, 300, 2))


def test_a_corpus_is_cut_and_its_loss_is_that_of_all_its_tokens():
    tokenizer, model = make_tokenizer(), make_model()
    found = corpus(["abcdefgh" * 4, "x", "", "hello"], tokenizer, ForgettingConfig(texts=4, tokens=9))
    assert [len(row) for row in found.input_ids] == [9, 5]
    assert eval_loss(model, found, pad_id=0, batch_tokens=50).mean == pytest.approx(
        eval_loss(model, found, pad_id=0).mean
    )
