"""Verdicts for a family of comparisons, and the seeds that would settle an open one.

An arm whose true difference from the reference is d has three hypotheses that a verdict denies: d <= 0 ("more"), d >=
0 ("less") and |d| >= margin ("equivalent"). Which of them are true together is a matter of logic:

    d = 0                 the first two
    0 < |d| < margin      one of the first two
    |d| >= margin         one of the first two, and the third

Two Holm procedures at the whole level, one for differences and one for equivalence, may err at twice the level where
some arms are in the first row and others in the third. Here all p-values are in one step-down procedure with one
critical value: the level divided by the number of arms, where an arm that is both different and equivalent counts a
half.

Why it holds: by the sequential rejection principle (Goeman & Solari, 2010; for Holm's procedure with hypotheses that
cannot all be true, Shaffer, 1986) it is enough that the chance of rejecting any true hypothesis is at most the level
once all false ones are rejected. At the critical value c an arm in the first row errs with chance c; one in the
second, by a wrong sign, with c / 2. In the third row, say at d >= margin, "less" is said where the mean lies below
-t(c / 2) standard errors, "equivalent" only where it lies below margin - t(c) standard errors. The first lies within
the second, whose chance is at most c; both together have no more. So the sum over arms, 1, 1/2 and 1 times c, bounds
the chance of any false verdict however the arms depend on each other, and that sum is what the level was divided by.
Wrong signs are in it, which Holm's procedure alone does not promise for dependent tests.

Goeman & Solari (2010), The sequential rejection principle of familywise error control, Annals of Statistics 38(6).
Shaffer (1986), Modified sequentially rejective multiple test procedures, JASA 81(395).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

FEWEST = 5  # seeds for a verdict


class Verdict(StrEnum):
    """What is said of an arm against the reference, in plain words."""

    better = "better"
    worse = "worse"
    equivalent = "equivalent"  # the difference is smaller than the margin, whatever its sign
    inconclusive = "inconclusive"
    too_few = "too few seeds"


def adjusted(p: Sequence[float | None], p_equivalence: Sequence[float | None]) -> tuple[list[float], list[float]]:
    """For each arm the lowest level of the family at which its difference is sure, and at which its equivalence is.

    Args:
        p: of each arm's two-sided paired t test; None where there are too few seeds. Such arms count in the family, so
            that their later seeds take no verdict of the others away.
        p_equivalence: of each arm's two one-sided tests, in the same order.
    """
    found: tuple[list[float], list[float]] = ([1.0] * len(p), [1.0] * len(p))
    asked = [(value, arm, kind) for kind, of in enumerate((p, p_equivalence)) for arm, value in enumerate(of)]
    share, largest = float(len(p)), 0.0
    rejected = [0] * len(p)
    for value, arm, kind in sorted((value, arm, kind) for value, arm, kind in asked if value is not None):
        largest = max(largest, value * share)
        found[kind][arm] = min(1.0, largest)
        rejected[arm] += 1
        share -= 0.5 * (rejected[arm] == 2)
    return found


def decide(difference: float, p: float, p_equivalence: float, *, better: str, level: float) -> Verdict:
    """The verdict of one arm from its adjusted p-values; enough seeds are taken for granted.

    A difference that is both sure and smaller than the margin is `equivalent`: no difference that matters. Its sign is
    in its interval.
    """
    if p_equivalence <= level:
        return Verdict.equivalent
    if p <= level:
        return Verdict.better if (difference > 0) == (better == "higher") else Verdict.worse
    return Verdict.inconclusive


POWER = 0.8
MOST = 200  # further seeds; more is no plan


def more_seeds(n: int, difference: float, sd: float, *, margin: float, level: float) -> int | None:
    """The number of further seeds at which a verdict has 80 % power, if difference and deviation are as observed.

    A verdict of either kind: a difference, or equivalence. What is observed in a handful of seeds is rough, and so is
    this: a plan, no promise.

    Args:
        n: seeds that are there.
        difference: the observed mean.
        sd: of the differences between seeds.
        margin: of equivalence, in the same unit.
        level: of this arm alone: the family's, divided by its arms, the worst that its step-down procedure asks.

    Returns:
        None where more than 200 would be needed, or no number would do.
    """
    if sd == 0:
        # then the tests need no more than the fewest seeds, unless they can tell nothing: neither different nor within
        return max(FEWEST - n, 0) or None
    effect, bound = difference / sd, margin / sd

    def power(more: int) -> float:
        return float(max(difference_power(n + more, effect, level), equivalence_power(n + more, effect, bound, level)))

    further = range(max(1, FEWEST - n), MOST + 1)
    found = bisect_left(further, POWER, key=power)  # power rises with seeds
    return further[found] if found < len(further) else None


def difference_power(n: Any, effect: float, level: float) -> Any:
    """Power of the two-sided paired t test to find the right sign at n seeds; effect is a difference in deviations."""
    return _one_sided(n, abs(effect), level / 2)


def equivalence_power(n: Any, effect: float, margin: float, level: float) -> Any:
    """Power of the two one-sided paired t tests at n seeds; effect and margin are in deviations.

    The powers of the two tests, less one: by Bonferroni's inequality both reject at least that often, and just so often
    where they cannot both fail to (Phillips, 1990, J. Pharmacokinetics and Biopharmaceutics 18(2)).
    """
    import numpy

    return numpy.maximum(_one_sided(n, margin - effect, level) + _one_sided(n, margin + effect, level) - 1, 0.0)


def _one_sided(n: Any, effect: float, level: float) -> Any:
    """Power of a one-sided t test; far out, where the noncentral t underflows to NaN, it is none or all."""
    import numpy
    from statsmodels.stats.power import ttest_power

    power = ttest_power(effect, n, level, alternative="larger")
    return numpy.where(numpy.isnan(power), float(effect > 0), power)
