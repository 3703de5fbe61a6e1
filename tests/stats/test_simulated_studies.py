"""The promise, on a tenth of the studies of benchmarks/simulated_studies.py, which judges as the product does."""

import numpy
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

import simulated_studies as simulated
from lorascope.stats.contrasts import contrasts

SURE = 1e-4  # a promise that is kept fails the test once in so many


def above(false: int, studies: int) -> bool:
    """Whether the rate of false verdicts is surely above 5 %."""
    return stats.binomtest(false, studies, 0.05, alternative="greater").pvalue < SURE


@pytest.mark.parametrize("noise", ["normal", "heavy tails", "seed effects"])
@pytest.mark.parametrize("seeds", [5, 10])
def test_the_chance_of_any_false_verdict_is_at_most_the_level(noise, seeds):
    for scenario in simulated.SCENARIOS:
        found = simulated.simulate(scenario, noise, seeds, 300)
        assert not above(found.false, found.studies), scenario


def test_the_test_would_see_a_broken_promise():
    """Without any adjustment for five arms; and where one training in ten collapses, as docs/statistics.md says."""
    margin, differences = simulated.SCENARIOS["exactly the margin"]
    arms, reference = simulated.draw("normal", differences, 300, 5, numpy.random.default_rng(0))
    verdicts = simulated.judge(arms, reference, margin, lambda *both: both)
    assert above(simulated.wrong(verdicts, differences, margin), 300)
    assert above(simulated.simulate("exactly the margin", "rare collapse", 10, 300).false, 300)


def test_large_differences_and_none_are_found_at_ten_seeds():
    assert simulated.simulate("twice the margin", "normal", 10, 100).found > 0.97
    assert simulated.simulate("no difference", "normal", 10, 100).equivalent > 0.97


@pytest.mark.parametrize("noise", ["normal", "seed effects"])
def test_intervals_hold_the_truth_as_often_as_they_say(noise):
    found = simulated.simulate("all of them", noise, 3, 2000)
    # arms share a reference: a study counts as one
    assert abs(found.covered - 0.95) < 4 * (0.05 * 0.95 / 2000) ** 0.5


@pytest.mark.parametrize("noise", ["normal", "rare collapse"])
def test_the_simulation_judges_as_contrasts_does(noise):
    margin, differences = simulated.SCENARIOS["all of them"]
    arms, reference = simulated.draw(noise, differences, 20, 6, numpy.random.default_rng(5))
    for study, expected in enumerate(simulated.judge(arms, reference, margin)):
        values = {f"arm {number}": dict(enumerate(row.tolist())) for number, row in enumerate(arms[study])}
        values["reference"] = dict(enumerate(reference[study, 0].tolist()))
        found = contrasts(values, "reference", better="higher", margin=margin, level=simulated.LEVEL)
        assert [one.verdict for one in found] == expected


def test_the_benchmarks_holm_is_statsmodels_own():
    p = [0.03, 0.001, 0.5, 0.011, 0.011]
    found, halved = simulated.two_holms(1.0)(p, p)[0], simulated.two_holms(0.5)(p, p)[1]
    expected = multipletests(p, method="holm")[1]
    assert numpy.minimum(found, 1) == pytest.approx(expected)
    assert numpy.array(halved) / 2 == pytest.approx(numpy.array(found))
