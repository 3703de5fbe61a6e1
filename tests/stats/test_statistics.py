"""Contrasts against scipy's and statsmodels' own tests, and by hand."""

import math
import subprocess
import sys
import time
import warnings

import numpy
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW, ttost_paired

from lorascope.stats.contrasts import FEWEST, ArmSummary, Verdict, contrasts, paired, summary


def study(differences: dict[str, list[float]], base: float = 0.5) -> dict[str, dict[int, float]]:
    """Values of which the differences from `reference` are the given ones, in seeds 0, 1, …"""
    seeds = range(max(map(len, differences.values())))
    values = {"reference": {seed: base + seed / 8 for seed in seeds}}
    for arm, each in differences.items():
        values[arm] = {seed: values["reference"][seed] + one for seed, one in enumerate(each)}
    return values


def one(differences: list[float], margin: float = 0.5, **options):
    """The contrast of a study's only arm."""
    (found,) = contrasts(study({"arm": differences}), "reference", **{"better": "higher", "margin": margin} | options)
    return found


def test_a_contrast_by_hand():
    # differences 1 2 3 4 5: mean 3, variance 2.5, t = 3 / sqrt(2.5 / 5) = 4.2426, t(0.975, 4) = 2.7764
    found = one([1.0, 2.0, 3.0, 4.0, 5.0], margin=1.0)
    assert (found.arm, found.n, found.difference, found.sd) == ("arm", 5, 3.0, pytest.approx(2.5**0.5))
    assert (found.low, found.high) == pytest.approx((3 - 2.7764451 * 0.5**0.5, 3 + 2.7764451 * 0.5**0.5))
    assert found.p == pytest.approx(0.0132356, rel=1e-4)
    assert found.verdict is Verdict.better
    assert found.more_seeds is None


def test_the_tests_are_scipys_and_statsmodels_own():
    rng = numpy.random.default_rng(0)
    arm, reference = rng.normal(0.3, 1, (40, 7)), rng.normal(0, 1, (40, 7))
    found = paired(arm, reference, 0.8)
    assert found.p == pytest.approx(stats.ttest_rel(arm, reference, axis=1).pvalue)
    equivalence = [ttost_paired(mine, other, -0.8, 0.8)[0] for mine, other in zip(arm, reference, strict=True)]
    assert found.p_equivalence == pytest.approx(equivalence)


def test_the_interval_is_that_of_the_paired_t_test_at_the_studys_level():
    rng = numpy.random.default_rng(1)
    differences = rng.normal(size=6)
    for level in (0.05, 0.2):
        found = one(differences.tolist(), level=level)
        expected = DescrStatsW(differences).tconfint_mean(level)
        assert (found.low, found.high) == pytest.approx(expected)


def test_every_verdict_there_is():
    noise = numpy.array([-0.02, -0.01, 0.0, 0.01, 0.02, 0.005])
    differences = {
        "up": noise + 1, "down": noise - 1, "same": noise, "unsure": 20 * noise + 0.3, "few": noise[:4] + 1,
    }  # fmt: skip
    for better, turn in (("higher", False), ("lower", True)):
        found = contrasts(study(differences), "reference", better=better, margin=0.1)
        words = {contrast.arm: contrast.verdict.value for contrast in found}
        up, down = ("worse", "better") if turn else ("better", "worse")
        assert words == {
            "up": up, "down": down, "same": "equivalent", "unsure": "inconclusive", "few": "too few seeds",
        }  # fmt: skip


def test_more_seeds_are_asked_at_the_share_of_one_arm():
    differences = [0.1, 0.9, -0.3, 0.8, 0.4, 0.2]
    alone = one(differences, margin=0.1)
    effect = numpy.mean(differences) / numpy.std(differences, ddof=1)
    assert alone.more_seeds == math.ceil(TTestPower().solve_power(effect, alpha=0.05, power=0.8)) - 6
    found = contrasts(study(dict.fromkeys("abc", differences)), "reference", better="higher", margin=0.1)
    n = math.ceil(TTestPower().solve_power(effect, alpha=0.05 / 3, power=0.8))
    assert [each.more_seeds for each in found] == [n - 6] * 3
    assert n - 6 > alone.more_seeds


def test_arms_come_in_the_order_of_the_values_without_the_reference():
    values = study({"b": [1.0] * 5, "a": [0.0] * 5})
    assert [found.arm for found in contrasts(values, "reference", better="higher", margin=0.1)] == ["b", "a"]
    assert [found.arm for found in contrasts(values, "b", better="higher", margin=0.1)] == ["reference", "a"]


def test_only_seeds_that_both_have_count():
    values = study({"arm": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]})
    del values["reference"][5]
    values["arm"][77] = 1e9
    (found,) = contrasts(values, "reference", better="higher", margin=0.1)
    assert (found.n, found.difference) == (5, pytest.approx(0.3))


def test_a_seed_with_a_value_that_is_not_finite_is_left_out():
    values = study({"arm": [0.1, math.nan, 0.3, math.inf, 0.5, 0.6, 0.7]})
    values["reference"][6] = -math.inf
    (found,) = contrasts(values, "reference", better="higher", margin=0.1)
    assert (found.n, found.difference) == (4, pytest.approx(1.5 / 4))


@pytest.mark.parametrize("seeds", range(FEWEST + 1))
def test_what_few_seeds_tell(seeds):
    found = one([0.1 * (seed + 1) for seed in range(seeds)] or [math.nan])
    assert found.n == seeds
    assert (found.difference is None) == (seeds == 0)
    assert (found.low is None) == (found.high is None) == (found.sd is None) == (seeds < 2)
    assert (found.p is None) == (found.p_equivalence is None) == (seeds < 5)
    assert (found.verdict is Verdict.too_few) == (seeds < 5)
    if 2 <= seeds < 5:
        assert found.more_seeds >= 5 - seeds


@pytest.mark.parametrize("reference", ["reference", "nobody"])
def test_without_a_common_seed_nothing_is_said(reference):
    values = study({"arm": [0.0] * 5}) | {"reference": {9: 1.0}, "empty": {}}
    for found in contrasts(values, reference, better="higher", margin=0.1):
        assert (found.n, found.difference, found.low, found.p, found.verdict) == (0, None, None, None, Verdict.too_few)
    assert contrasts({}, reference, better="higher", margin=0.1) == []


@pytest.mark.parametrize("reference", [0.1, 1e-30, -7e5, 0.0])
def test_identical_values_are_equivalent_and_never_better(reference):
    same = dict.fromkeys(range(5), reference)
    values = {"reference": same, "arm": same}
    for margin, verdict in ((0.1, Verdict.equivalent), (0.0, Verdict.inconclusive), (-1.0, Verdict.inconclusive)):
        (found,) = contrasts(values, "reference", better="higher", margin=margin)
        assert (found.difference, found.sd, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 0.0, 1.0)
        assert (found.verdict, found.more_seeds) == (verdict, None)


@pytest.mark.parametrize(
    ("difference", "verdict"), [(0.25, "better"), (-0.25, "worse"), (0.0625, "equivalent"), (0.125, "better")]
)
def test_the_same_difference_in_every_seed_is_sure(difference, verdict):
    assert one([difference] * 5, margin=0.125).verdict == verdict


def test_rounding_is_no_difference():
    values = {"reference": dict.fromkeys(range(5), 0.3), "arm": dict.fromkeys(range(5), 0.1 + 0.2)}
    values["arm"][3] = 0.3
    (found,) = contrasts(values, "reference", better="higher", margin=0.01)
    assert (found.difference, found.sd, found.verdict) == (0.0, 0.0, Verdict.equivalent)


def test_scale_and_order_of_seeds_do_not_matter():
    rng = numpy.random.default_rng(3)
    values = study({"arm": rng.normal(0.3, 0.4, 6).tolist(), "other": rng.normal(-1, 0.4, 6).tolist()})
    plain = contrasts(values, "reference", better="higher", margin=0.7)
    turned = {arm: dict(reversed(each.items())) for arm, each in values.items()}
    for factor in (1e-12, 1e9):
        scaled = {arm: {seed: factor * value for seed, value in each.items()} for arm, each in turned.items()}
        for found, expected in zip(
            contrasts(scaled, "reference", better="higher", margin=0.7 * factor), plain, strict=True
        ):
            assert (found.verdict, found.more_seeds) == (expected.verdict, expected.more_seeds)
            assert (found.p, found.p_equivalence) == pytest.approx((expected.p, expected.p_equivalence))
            assert found.difference == pytest.approx(factor * expected.difference)


@pytest.mark.parametrize("size", [1e-320, 1e-160, 1e160, 1e300, 1.7e308])
def test_no_values_make_it_fail_or_warn(size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for differences in ([1, -1, 1, -1, 1], [1, 0.9, 0.8, 1, 0.95], [1, 0, 0, 0, 0]):
            values = {"reference": dict.fromkeys(range(5), 0.0)}
            values["arm"] = {seed: size * value for seed, value in enumerate(differences)}
            for margin in (0.0, size / 4, math.nan, math.inf):
                (found,) = contrasts(values, "reference", better="lower", margin=margin)
                assert found.n == 5
                assert found.verdict in Verdict
        assert summary([size, -size, size]).n == 3


def test_a_summary_is_scipys():
    values = [0.31, 0.35, 0.29, 0.4]
    found = summary([*values, math.nan])
    assert (found.n, found.mean, found.sd) == (4, pytest.approx(0.3375), pytest.approx(numpy.std(values, ddof=1)))
    interval = stats.t.interval(0.95, 3, loc=numpy.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(interval)
    assert summary([2.0]) == ArmSummary(n=1, mean=2.0, sd=None, low=None, high=None)
    assert summary([]) == ArmSummary(n=0, mean=None, sd=None, low=None, high=None)


def test_a_hundred_families_take_seconds_and_no_torch():
    code = (
        "import random, sys\n"
        "from lorascope.stats.contrasts import contrasts\n"
        "for family in range(100):\n"
        "    values = {arm: {seed: random.random() for seed in range(8)} for arm in 'abcdef'}\n"
        "    contrasts(values, 'a', better='higher', margin=0.1)\n"
        "assert not {'torch', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules)"
    )
    began = time.perf_counter()
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)
    assert time.perf_counter() - began < 30  # three, the half of it imports; the rest is for a busy machine
