"""The procedure against closed testing by brute force, and against the plain ones that it comes down to."""

import itertools

import numpy
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from lorascope.stats.verdicts import Verdict, adjusted, decide

# an arm's true hypotheses, by where its true difference can lie: at most zero, at least zero, as large as the margin
STATES = (
    {"low": 0.5, "high": 0.5},
    {"low": 0.5},
    {"high": 0.5},
    {"low": 0.5, "large": 1.0},
    {"high": 0.5, "large": 1.0},
)


def closed(arms: list[dict[str, float]], level: float) -> list[set[str]]:
    """What closed testing rejects (Marcus, Peritz & Gabriel, 1976): a hypothesis falls with every state that it is in.

    A state is tested by Bonferroni: each arm has the share of the level that its true hypotheses take at most.
    """
    standing: list[set[str]] = [set() for _ in arms]
    for state in itertools.product(STATES, repeat=len(arms)):
        critical = level / sum(min(1.0, sum(one.values())) for one in state)
        fallen = any(
            arm[name] <= weight * critical for arm, one in zip(arms, state, strict=True) for name, weight in one.items()
        )
        for number, one in enumerate(state):
            standing[number] |= set() if fallen else set(one)
    return [set(arms[0]) - one for one in standing]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_it_rejects_what_closed_testing_over_all_possible_truths_rejects(number):
    rng, freedom, seen = numpy.random.default_rng(number), 6, set()
    for _ in range(150):
        means, margin = rng.normal(0, 3, number), rng.choice([0.5, 4.0, 8.0])
        arms = [
            {
                "low": stats.t.sf(mean, freedom),
                "high": stats.t.cdf(mean, freedom),
                "large": stats.t.sf(margin - abs(mean), freedom),
            }
            for mean in means
        ]
        two_sided = [2 * min(arm["low"], arm["high"]) for arm in arms]
        for level in (0.05, 0.3):
            found = adjusted(two_sided, [arm["large"] for arm in arms])
            rejected = [
                ({"low" if mean > 0 else "high"} if p <= level else set()) | ({"large"} if same <= level else set())
                for mean, p, same in zip(means, *found, strict=True)
            ]
            assert rejected == closed(arms, level)
            seen |= {frozenset(one) for one in rejected}
    assert len(seen) == 6  # nothing, either sign, equivalence, and it with either sign


def test_without_any_equivalence_it_is_bonferroni():
    p = [0.04, 0.001, 0.2, 0.012, 0.9]
    found = adjusted(p, [1.0] * 5)
    assert found[0] == pytest.approx(multipletests(p, method="bonferroni")[1])
    assert found[1] == [1.0] * 5


def test_an_arm_that_is_both_different_and_equivalent_leaves_half_its_share_to_the_others():
    found = adjusted([0.001, 0.04], [0.001, 0.9])
    assert found == (pytest.approx([0.002, 0.04 * 1.5]), pytest.approx([0.002, 1.0]))


def test_arms_with_too_few_seeds_keep_their_share():
    assert adjusted([0.01, None, None], [0.5, None, None])[0][0] == pytest.approx(0.03)


def test_adjusted_values_are_in_order_and_at_most_one():
    rng = numpy.random.default_rng(0)
    for _ in range(100):
        p, same = rng.random(4) ** 4, rng.random(4) ** 4
        found = numpy.concatenate(adjusted(p.tolist(), same.tolist()))
        raw = numpy.concatenate([p, same])
        assert (numpy.diff(found[raw.argsort()]) >= 0).all()
        assert ((raw <= found) & (found <= 1)).all()


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_better_follows_the_direction(better):
    words = [decide(sign * 0.5, 0.01, 0.9, better=better, level=0.05) for sign in (1, -1)]
    assert words == ([Verdict.better, Verdict.worse] if better == "higher" else [Verdict.worse, Verdict.better])


def test_a_sure_difference_within_the_margin_is_equivalent():
    assert decide(0.1, 0.001, 0.001, better="higher", level=0.05) is Verdict.equivalent
    assert decide(0.1, 0.06, 0.06, better="higher", level=0.05) is Verdict.inconclusive
    assert decide(0.1, 0.05, 0.06, better="higher", level=0.05) is Verdict.better
    assert decide(0.1, 0.06, 0.05, better="higher", level=0.05) is Verdict.equivalent


def test_verdicts_are_plain_words():
    assert f"{Verdict.too_few}" == "too few seeds"
