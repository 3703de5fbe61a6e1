"""How many more seeds would settle a comparison: what is known of it comes in, a number of seeds goes out."""

from __future__ import annotations

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
    import numpy

    if sd == 0:
        # the tests need no more than the fewest seeds, unless they cannot tell at all: neither different nor equivalent
        return max(FEWEST - n, 0) or None
    further = numpy.arange(max(1, FEWEST - n), MOST + 1)
    effect, total = difference / sd, n + further
    powers = difference_power(total, effect, level), equivalence_power(total, effect, margin / sd, level)
    enough = numpy.maximum(*powers) >= POWER
    return int(further[enough.argmax()]) if enough.any() else None


def difference_power(n: Any, effect: float, level: float) -> Any:
    """Power of the two-sided paired t test at n seeds; effect is the difference in standard deviations."""
    from statsmodels.stats.power import ttest_power

    return ttest_power(abs(effect), n, level)


def equivalence_power(n: Any, effect: float, margin: float, level: float) -> Any:
    """Power of the two one-sided paired t tests at n seeds; effect and margin are in standard deviations.

    The powers of the two tests, less one: what both reject together, by Boole's inequality at least that much, and
    exactly that as soon as failing both at once is out of the question (Phillips, 1990, J. Pharmacokinetics and
    Biopharmaceutics 18(2)).
    """
    import numpy
    from statsmodels.stats.power import ttest_power

    sides = [ttest_power(margin + sign * effect, n, level, alternative="larger") for sign in (-1, 1)]
    return numpy.maximum(sides[0] + sides[1] - 1, 0.0)
