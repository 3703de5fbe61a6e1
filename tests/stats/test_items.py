"""Items: read as a run keeps them, and described as scipy and statsmodels do."""

import math
from types import SimpleNamespace

import numpy
import pytest
from scipy import stats

from lorascope.evaluation import predictions
from lorascope.evaluation.metrics import TASK_METRICS, Answer
from lorascope.evaluation.tasks import MAIN, Evaluated
from lorascope.reports.findings import item_scores
from lorascope.stats.contrasts import item_difference, mcnemar


@pytest.fixture
def folder(tmp_path):
    """A run's, with what base and adapter answered: the adapter gets items 0 and 2 right."""
    metrics = [TASK_METRICS[name] for name in ("exact_match", "macro_f1")]

    def answers(*texts: str) -> tuple[Answer, ...]:
        return tuple(Answer(prompt=f"{n}?", gold="a", text=text, choice=text) for n, text in enumerate(texts))

    stages = {
        predictions.BASE: Evaluated({}, {MAIN: answers("b", "b", "b")}),
        predictions.ADAPTED: Evaluated({}, {MAIN: answers("a", "b", "a"), "reversed": answers("b", "b")}),
    }
    suite = SimpleNamespace(
        names=lambda: {metric.name: metric for metric in metrics},
        metrics_of=lambda name: metrics if name == MAIN else metrics[:1],
    )
    predictions.write(tmp_path / predictions.FILE, stages, suite)
    return tmp_path


def test_scores_of_items_are_read_as_the_run_kept_them(folder):
    assert item_scores(folder, "exact_match", 2 / 3) == [1.0, 0.0, 1.0]
    assert item_scores(folder, "exact_match/reversed", 0.0) == [0.0, 0.0]


def test_a_metric_that_is_no_mean_of_items_has_none(folder):
    assert item_scores(folder, "macro_f1", 0.4) is None
    assert item_scores(folder, "macro_f1/reversed", 0.4) is None
    assert item_scores(folder, "eval_loss", 0.4) is None
    assert item_scores(folder, "prompt", 0.4) is None


def test_a_run_without_answers_has_none(folder, tmp_path):
    assert item_scores(tmp_path / "elsewhere", "exact_match", 1.0) is None
    (folder / predictions.FILE).write_bytes(b"PAR1 cut")
    assert item_scores(folder, "exact_match", 2 / 3) is None


def test_the_bootstrap_resamples_items_of_which_seeds_are_averaged():
    rng = numpy.random.default_rng(0)
    arm, reference = rng.random((3, 400)), rng.random((3, 400)) - 0.2
    found = item_difference(arm, reference)
    pooled = (arm - reference).mean(axis=0)
    assert (found.items, found.seeds, found.difference) == (400, 3, pytest.approx(pooled.mean()))
    # with so many items the percentile bootstrap is the normal interval of their mean
    half = stats.norm.ppf(0.975) * pooled.std() / math.sqrt(400)
    assert (found.low, found.high) == pytest.approx((pooled.mean() - half, pooled.mean() + half), abs=0.1 * half)
    assert item_difference(arm, reference) == found


def test_items_of_one_seed_and_a_single_item():
    found = item_difference([1, 0, 1, 1], [0, 0, 1, 0])
    assert (found.items, found.seeds, found.difference) == (4, 1, 0.5)
    found = item_difference([1.0], [0.25])
    assert (found.difference, found.low, found.high) == (0.75, None, None)
    found = item_difference([1, 0, 1], [1, 0, 1])
    assert (found.difference, found.low, found.high) == (0, 0, 0)


def test_mcnemar_is_the_binomial_test_of_the_items_that_differ():
    rng = numpy.random.default_rng(2)
    arm, reference = rng.random(60) < 0.7, rng.random(60) < 0.4
    found = mcnemar(arm, reference)
    gained, lost = int((arm & ~reference).sum()), int((reference & ~arm).sum())
    assert (found.only_arm, found.only_reference) == (gained, lost)
    assert found.p == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    assert mcnemar([1, 0], [1, 0]).p == 1.0


def test_scores_that_are_neither_0_nor_1_have_no_mcnemar():
    assert mcnemar([0.5, 1.0], [0.0, 1.0]) is None
    assert mcnemar([1.0, math.nan], [0.0, 1.0]) is None
