"""One setting decides the batches of everything that is measured, and no score depends on it."""

import dataclasses

import pytest
import torch

from helpers import make_model, make_tokenizer
from lorascope.compose import compose
from lorascope.data.rows import Rows, exchange
from lorascope.data.tokenization import encode
from lorascope.evaluation.measure import Measure
from lorascope.evaluation.metrics import TASK_METRICS
from lorascope.evaluation.tasks import Suite
from lorascope.records.record import EVAL_LOSS


def measured(batch_tokens: int):
    """Scores, and the padded tokens of each forward pass of the eval loss."""
    rows = Rows((exchange("t", "u"),), tuple(exchange(f"ask {n}", "yes" if n % 2 else "no") for n in range(12)), "here")
    tokenizer, model, seen = make_tokenizer(), make_model(), []
    settings = dataclasses.replace(compose(["evaluation.forgetting.texts=0"]).evaluation, batch_tokens=batch_tokens)
    suite = Suite(rows, [TASK_METRICS["exact_match"], TASK_METRICS["gold_logprob"]], tokenizer, settings)
    measure = Measure(settings, tokenizer, encode(rows.eval, tokenizer, 64, "eval"), suite, None, True)

    def count(module, arguments, named):
        ids = named.get("input_ids")
        seen.append(ids.numel() if isinstance(ids, torch.Tensor) and not named.get("use_cache") else 0)

    model.register_forward_pre_hook(count, with_kwargs=True)
    scores = measure.base(model, lambda items: None).values()
    return scores, max(seen)


def test_the_eval_loss_takes_batches_of_the_setting_and_stays_the_same():
    small, narrow = measured(64)
    large, wide = measured(1024)
    assert narrow <= 64 < wide
    assert small == pytest.approx(large, rel=1e-5)
    assert EVAL_LOSS.name in small
