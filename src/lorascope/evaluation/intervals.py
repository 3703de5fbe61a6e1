"""95 % intervals over items: how far a set's value might lie from that of all such items. They never decide a study."""

from __future__ import annotations

from collections.abc import Sequence

from lorascope.evaluation.answers import Answer
from lorascope.evaluation.metrics import TaskMetric

LEVEL = 0.95
RESAMPLES = 1000
RESAMPLES_OF_WHOLES = 300  # where each takes milliseconds


def interval(metric: TaskMetric, answers: Sequence[Answer]) -> tuple[float, float] | None:
    """Low and high end over the items; None where fewer than two, or values that are no numbers, tell nothing.

    Shares have Wilson's interval (Wilson, 1927), which holds at none and all; everything else the percentile bootstrap
    over items (Efron, 1979), with the same resamples every time.
    """
    import numpy
    from scipy import stats

    scores = numpy.array([metric.score(answer) for answer in answers])
    if len(scores) < 2 or not numpy.isfinite(scores).all():
        return None
    if metric.whole is None and set(scores.tolist()) <= {0.0, 1.0}:
        found = stats.binomtest(int(scores.sum()), len(scores)).proportion_ci(LEVEL, method="wilson")
        return float(found.low), float(found.high)
    resamples = RESAMPLES if metric.whole is None else RESAMPLES_OF_WHOLES
    draws = numpy.random.default_rng(0).integers(len(scores), size=(resamples, len(scores)))
    if metric.whole is None:
        values = scores[draws].mean(axis=1)
    else:
        values = numpy.array([metric.whole([answers[index] for index in draw]) for draw in draws])
    low, high = numpy.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
