"""Two arms compared item by item; descriptive only.

Items tell how given trainings differ on questions of a kind. How strategies differ, seeds alone tell (`statistics`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class ItemDifference:
    """Arm minus reference over items, with the bootstrap's interval."""

    items: int
    seeds: int
    difference: float
    low: float | None  # null for a single item
    high: float | None


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Items that one of two runs gets right and the other does not."""

    only_arm: int
    only_reference: int
    p: float  # exact, two-sided: of both being as likely


def item_difference(arm: Any, reference: Any, *, level: float = 0.05) -> ItemDifference:
    """The mean difference over items, and how it might come out on other items of the kind, by these trainings.

    Each item's difference is averaged over the seeds first; then items, not seeds, are resampled: the percentile
    bootstrap (Efron, 1979), with the same resamples every time.

    Args:
        arm: (items,) or (seeds, items), finite, at least one of each.
        reference: the same shape, the same items and seeds in the same order.
        level: 1 - level is the interval's.
    """
    import numpy
    from scipy import stats

    differences = numpy.atleast_2d(numpy.asarray(arm, dtype=float) - numpy.asarray(reference, dtype=float))
    pooled = differences.mean(axis=0)
    low = high = None
    if len(pooled) > 1:
        found = stats.bootstrap(
            (pooled,), numpy.mean, n_resamples=RESAMPLES, batch=100, confidence_level=1 - level, method="percentile",
            rng=numpy.random.default_rng(0),
        ).confidence_interval  # fmt: skip
        low, high = float(found.low), float(found.high)
    seeds, items = differences.shape
    return ItemDifference(items=items, seeds=seeds, difference=float(pooled.mean()), low=low, high=high)


def mcnemar(arm: Any, reference: Any) -> McNemar | None:
    """McNemar's exact test (1947) of two runs of one seed; None where a score is neither 0 nor 1.

    Args:
        arm: (items,) of 0 and 1.
        reference: the same items in the same order.
    """
    import numpy
    from statsmodels.stats.contingency_tables import mcnemar as exact

    right, also = numpy.asarray(arm, dtype=float), numpy.asarray(reference, dtype=float)
    if not numpy.isin([right, also], [0.0, 1.0]).all():
        return None
    table = [[int(((right == one) & (also == other)).sum()) for other in (1, 0)] for one in (1, 0)]
    return McNemar(only_arm=table[0][1], only_reference=table[1][0], p=float(exact(table, exact=True).pvalue))
