"""More seeds, against trainings drawn and tested by scipy."""

import math

import numpy
import pytest
from scipy import integrate, stats
from statsmodels.stats.power import TTestPower

from lorascope.stats.verdicts import difference_power, equivalence_power, more_seeds


def drawn(n: int, difference: float, margin: float, level: float, studies: int = 20_000) -> tuple[float, float]:
    """How often either verdict falls at n seeds: a difference of the right sign, and equivalence."""
    draws = numpy.random.default_rng(n).normal(difference, 1, (studies, n))
    tests = stats.ttest_1samp(draws, 0, axis=1)
    upper = stats.ttest_1samp(draws, margin, axis=1, alternative="less").pvalue
    lower = stats.ttest_1samp(draws, -margin, axis=1, alternative="greater").pvalue
    right = (tests.pvalue <= level) & (tests.statistic * difference > 0)
    return float(right.mean()), float(((upper <= level) & (lower <= level)).mean())


@pytest.mark.parametrize(("difference", "margin"), [(1.5, 0.1), (-1.5, 0.1), (0.0, 1.5), (0.4, 1.5), (-0.4, 1.5)])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_so_many_seeds_have_80_percent_power_and_one_less_has_not(difference, margin, level):
    n = 5
    found = more_seeds(n, difference, 1.0, margin=margin, level=level)
    enough = max(drawn(n + found, difference, margin, level))
    assert enough > 0.8 - 0.012  # four standard errors of 20,000 draws
    if found > 1:
        assert max(drawn(n + found - 1, difference, margin, level)) < 0.8 + 0.012


def exactly(n: int, effect: float, margin: float, level: float) -> float:
    """Power of equivalence: the chance that the mean lies where both tests reject, over all observed deviations."""
    root, critical = math.sqrt(n), stats.t.ppf(1 - level, n - 1)

    def share(deviation: float) -> float:
        reach = margin * root - critical * deviation
        inside = stats.norm.cdf(reach - effect * root) - stats.norm.cdf(-reach - effect * root)
        return inside * stats.chi.pdf(deviation, n - 1, scale=1 / math.sqrt(n - 1))

    return integrate.quad(share, 0, margin * root / critical, limit=200)[0]


@pytest.mark.parametrize("n", [5, 9, 30])
@pytest.mark.parametrize("effect", [0.0, 0.5, -1.0])
def test_power_of_equivalence_is_never_overstated_and_near_where_it_matters(n, effect):
    for margin in (1.0, 1.5, 2.5):
        exact, found = exactly(n, effect, margin, 0.01), float(equivalence_power(n, effect, margin, 0.01))
        assert found <= exact + 1e-6
        if exact > 0.7:
            assert found == pytest.approx(exact, abs=0.03)


def test_power_of_a_difference_is_statsmodels_own():
    for effect in (0.5, 0.9, 1.3):
        n = TTestPower().solve_power(effect_size=effect, alpha=0.01, power=0.8)
        assert float(difference_power(n, effect, 0.01)) == pytest.approx(0.8, abs=1e-4)
        assert more_seeds(5, effect, 1.0, margin=0.0, level=0.01) == math.ceil(n) - 5


def test_hundreds_of_seeds_are_no_plan():
    assert more_seeds(5, 0.05, 1.0, margin=0.06, level=0.01) is None
    assert more_seeds(5, 0.0, 1.0, margin=0.0, level=0.01) is None
    assert more_seeds(5, 0.0, 0.0, margin=0.0, level=0.01) is None


def test_a_verdict_needs_five_seeds_however_clear_it_is():
    assert more_seeds(2, 5.0, 0.1, margin=0.1, level=0.05) == 3
    assert more_seeds(3, 0.0, 0.0, margin=0.1, level=0.05) == 2


@pytest.mark.parametrize("effect", [0.0, 1e-9, 0.1, 3.0, 10.0, 3e3, 1e9])
@pytest.mark.parametrize("level", [0.05, 0.005, 1e-4])
def test_power_rises_with_seeds_and_is_always_a_number(effect, level):
    n = numpy.arange(2, 206)
    for power in (difference_power(n, effect, level), equivalence_power(n, 0.0, effect, level)):
        assert ((power >= 0) & (power <= 1)).all()
        assert (numpy.diff(power) > -1e-9).all()
