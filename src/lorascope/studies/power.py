"""How many more seeds would settle a comparison: what is known of it comes in, a number of seeds goes out."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from lorascope.studies.verdicts import FEWEST

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
