"""Paired t tests over seeds, for any number of comparisons at once: values come in, p-values go out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

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
