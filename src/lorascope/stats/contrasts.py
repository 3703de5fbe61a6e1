"""Differences between arms, with intervals and p-values: paired over seeds, and, descriptive only, over items."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lorascope.stats.verdicts import FEWEST, Verdict, adjusted, decide, more_seeds

Values = Mapping[str, Mapping[int, float]]  # arm -> seed -> a metric's value
ROUNDING = 16 * 2.0**-52  # of the values: what is closer is the same number


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Paired t tests, an array element for each comparison; NaN where one seed or none tells nothing."""

    n: int
    mean: Any
    sd: Any
    p: Any  # two-sided, of no difference
    p_equivalence: Any  # the larger of two one-sided tests against the margin


def paired(arm: Any, reference: Any, margin: float) -> Paired:
    """Paired t tests of arm minus reference over the last axis, which is seeds.

    Two-sided against no difference (Student, 1908), and two one-sided tests against the margin (Schuirmann, 1987), as
    `scipy.stats.ttest_rel` and `statsmodels.stats.weightstats.ttost_paired` give them, for any number of comparisons at
    once and without their warnings where the differences have no variance.

    Args:
        arm: (…, seeds), finite.
        reference: (…, seeds), the same seeds in the same order.
        margin: in the same unit.
    """
    import numpy
    from scipy import stats

    difference = numpy.asarray(arm, dtype=float) - numpy.asarray(reference, dtype=float)
    n = difference.shape[-1]
    if n == 0:
        nothing = numpy.full(difference.shape[:-1], numpy.nan)
        return Paired(n=n, mean=nothing, sd=nothing, p=nothing, p_equivalence=nothing)
    rounding = ROUNDING * numpy.maximum(numpy.abs(arm), numpy.abs(reference)).max(axis=-1)
    # divided by the largest, so that neither sum nor squares overflow
    unit = numpy.abs(difference).max(axis=-1)
    unit = numpy.where(unit == 0, 1.0, unit)
    scaled = difference / unit[..., None]
    mean = _settled(scaled.mean(axis=-1) * unit, rounding)
    if n == 1:
        nothing = numpy.full_like(mean, numpy.nan)
        return Paired(n=n, mean=mean, sd=nothing, p=nothing, p_equivalence=nothing)
    gap = _settled(margin - numpy.abs(mean), rounding)
    with numpy.errstate(divide="ignore", invalid="ignore", over="ignore"):
        sd = _settled(scaled.std(axis=-1, ddof=1) * unit, rounding)
        error = sd / math.sqrt(n)
        p = 2 * stats.t.sf(numpy.abs(mean) / error, n - 1)
        p_equivalence = stats.t.sf(gap / error, n - 1)  # the side that is nearer has the larger p
    return Paired(n=n, mean=mean, sd=sd, p=_or_one(p), p_equivalence=_or_one(p_equivalence))


def _settled(value: Any, rounding: Any) -> Any:
    """Zero where only rounding is left of it."""
    import numpy

    return numpy.where(numpy.abs(value) <= rounding, 0.0, value)


def _or_one(p: Any) -> Any:
    """Nothing divided by nothing denies nothing."""
    import numpy

    return numpy.where(numpy.isnan(p), 1.0, p)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """An arm against the reference, over the seeds that both have; null is what so few seeds cannot tell."""

    arm: str
    n: int  # seeds that both have
    difference: float | None  # arm minus reference, the mean over seeds, in the metric's unit
    sd: float | None  # of the differences between seeds
    low: float | None  # the paired t interval of this arm alone, at 1 - level: it is not widened for the family
    high: float | None
    p: float | None  # of no difference, adjusted for the family: significant where it is at most the level
    p_equivalence: float | None  # of a difference as large as the margin, adjusted likewise
    verdict: Verdict
    more_seeds: int | None  # how many further ones might settle it; null: settled, or hundreds


@dataclass(frozen=True, kw_only=True)
class ArmSummary:
    """An arm's values over its seeds."""

    n: int
    mean: float | None
    sd: float | None
    low: float | None  # t interval over seeds
    high: float | None


def contrasts(values: Values, reference: str, *, better: str, margin: float, level: float = 0.05) -> list[Contrast]:
    """Every other arm against the reference, in the order of `values`: one family, one task, one view.

    The chance of any false verdict among them is at most `level`: better or worse where the true difference is none or
    of the other sign, equivalent where it is as large as the margin (`verdicts` says why). As with every t test,
    differences between seeds should be about normal. Arms with fewer than five common seeds get no verdict.

    Differences that are the same in every seed have no variance to divide by; then the tests' limit is taken: a p of 0
    where they are not 0 (or all smaller than the margin), else of 1.

    Args:
        values: arm -> seed -> value; values that are not finite are left out, with their seed.
        reference: the arm compared with; where it has no values, every arm has too few seeds.
        better: higher or lower.
        margin: differences smaller than this do not matter, in the metric's unit; at 0 nothing is equivalent.
        level: of the family, 0 to 1.
    """
    arms = [arm for arm in values if arm != reference]
    found = [paired(*_common(values[arm], values.get(reference, {})), margin) for arm in arms]
    tests = adjusted(
        [float(one.p) if one.n >= FEWEST else None for one in found],
        [float(one.p_equivalence) if one.n >= FEWEST else None for one in found],
    )
    made = []
    for arm, one, p, p_equivalence in zip(arms, found, *tests, strict=True):
        n, mean, sd = one.n, float(one.mean), float(one.sd)
        ready = n >= FEWEST
        verdict = decide(mean, p, p_equivalence, better=better, level=level) if ready else Verdict.too_few
        settled = verdict not in (Verdict.inconclusive, Verdict.too_few)
        further = None if settled or n < 2 else more_seeds(n, mean, sd, margin=margin, level=level / len(arms))
        low, high = _interval(n, mean, sd, level)
        made.append(
            Contrast(
                arm=arm, n=n, difference=_known(mean), sd=_known(sd), low=low, high=high, p=p if ready else None,
                p_equivalence=p_equivalence if ready else None, verdict=verdict, more_seeds=further,
            )
        )  # fmt: skip
    return made


def summary(values: Iterable[float], *, level: float = 0.05) -> ArmSummary:
    """Mean, deviation (of n - 1) and t interval of one arm's values over seeds, but for those that are not finite."""
    import numpy

    kept = numpy.array([value for value in values if math.isfinite(value)])
    one = paired(kept, numpy.zeros_like(kept), 0.0)
    low, high = _interval(one.n, float(one.mean), float(one.sd), level)
    return ArmSummary(n=one.n, mean=_known(float(one.mean)), sd=_known(float(one.sd)), low=low, high=high)


def _common(arm: Mapping[int, float], reference: Mapping[int, float]) -> tuple[list[float], list[float]]:
    """The values of both at the seeds where both, and their difference, are finite."""
    seeds = [seed for seed in arm if seed in reference and math.isfinite(arm[seed] - reference[seed])]
    return [arm[seed] for seed in seeds], [reference[seed] for seed in seeds]


def _interval(n: int, mean: float, sd: float, level: float) -> tuple[float | None, float | None]:
    from scipy import stats

    if n < 2:
        return None, None
    half = float(stats.t.ppf(1 - level / 2, n - 1)) * sd / math.sqrt(n)
    return _known(mean - half), _known(mean + half)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


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
            (pooled,), numpy.mean, n_resamples=2000, batch=100, confidence_level=1 - level, method="percentile",
            rng=numpy.random.default_rng(0),
        ).confidence_interval  # fmt: skip
        low, high = float(found.low), float(found.high)
    seeds, items = differences.shape
    return ItemDifference(items=items, seeds=seeds, difference=float(pooled.mean()), low=low, high=high)


def mcnemar(arm: Any, reference: Any) -> McNemar | None:
    """McNemar's exact test (1947) of two runs of one seed, each (items,); None where a score is neither 0 nor 1."""
    import numpy
    from statsmodels.stats.contingency_tables import mcnemar as exact

    right, also = numpy.asarray(arm, dtype=float), numpy.asarray(reference, dtype=float)
    if not numpy.isin([right, also], [0.0, 1.0]).all():
        return None
    table = [[int(((right == one) & (also == other)).sum()) for other in (1, 0)] for one in (1, 0)]
    return McNemar(only_arm=table[0][1], only_reference=table[1][0], p=float(exact(table, exact=True).pvalue))
