"""A learning rate by successive halving: the losses decide, and nothing else."""

import math
import random

import pytest

from lorascope.config.schema import PilotConfig
from lorascope.study.schedule import Trial, choice, expected, grid, next_trials


def pilot(settings, curve):
    """Try what is asked for until nothing is; `curve` gives the loss of (rung, step)."""
    losses, tried = {}, []
    while trials := next_trials(settings, losses):
        assert not set(trials) & set(losses), "nothing is tried twice"
        tried.append(trials)
        losses |= {trial: curve(trial.rung, trial.step) for trial in trials}
    return choice(settings, losses), tried, losses


def valley(bottom, drift=0.0):
    """A loss that is lowest at `bottom` at full length; shorter trainings like rates that are higher by `drift`."""
    return lambda rung, step: (step - bottom - drift * (2 - rung)) ** 2 + 1.0


@pytest.mark.parametrize("bottom", range(-4, 6))
@pytest.mark.parametrize("drift", [0.0, 0.6, 1.2])
def test_the_rate_is_the_best_of_all_rates_at_full_length(bottom, drift):
    settings = PilotConfig(points=5, extend=3)
    found, _, _ = pilot(settings, valley(bottom, drift))
    reachable = range(grid(settings).start - 3, grid(settings).stop + 3)
    assert found.step == min(reachable, key=lambda step: valley(bottom, drift)(2, step))


def test_half_of_the_rates_go_on_after_each_length():
    _, tried, _ = pilot(PilotConfig(points=8, shares=[0.25, 0.5, 1.0]), valley(0))
    assert [len(trials) for trials in tried[:3]] == [8, 4, 2]
    assert {trial.rung for trial in tried[0]} == {0}


def test_both_neighbours_of_the_winner_were_tried_at_full_length():
    found, _, losses = pilot(PilotConfig(points=4), valley(3))
    assert {Trial(2, found.step - 1), Trial(2, found.step + 1)} <= set(losses)


def test_an_edge_that_cannot_be_passed_is_told():
    found, _, _ = pilot(PilotConfig(points=3, extend=1), valley(9))
    assert found.step == 2
    assert "highest" in found.note
    found, _, _ = pilot(PilotConfig(points=3, extend=0), valley(-9))
    assert found.step == -1
    assert "lowest" in found.note


def test_a_rate_that_diverged_never_wins_and_no_rate_is_chosen_where_all_did():
    curve = lambda rung, step: math.nan if step > 0 else valley(0)(rung, step)  # noqa: E731
    assert pilot(PilotConfig(points=5), curve)[0].step == 0
    found, tried, _ = pilot(PilotConfig(points=5), lambda rung, step: math.inf)
    assert found.step is None
    assert [trial.rung for trials in tried for trial in trials] == [0] * 5


def test_the_order_in_which_losses_come_changes_nothing():
    settings = PilotConfig(points=6)
    noise = {Trial(rung, step): random.Random(rung * 100 + step).random() for rung in range(3) for step in range(-9, 9)}
    curve = lambda rung, step: noise[Trial(rung, step)]  # noqa: E731
    found, _, losses = pilot(settings, curve)
    for seed in range(20):
        shuffled = list(losses.items())
        random.Random(seed).shuffle(shuffled)
        assert next_trials(settings, dict(shuffled)) == []
        assert choice(settings, dict(shuffled)) == found


def test_a_pilot_that_was_cut_asks_for_what_is_missing_alone():
    settings = PilotConfig(points=4)
    _, _, losses = pilot(settings, valley(0))
    for trial in losses:
        rest = {other: loss for other, loss in losses.items() if other.rung < trial.rung or other == trial}
        assert trial not in next_trials(settings, rest)


def test_rates_are_exact_doublings():
    assert [Trial(0, step).rate(2e-4) for step in grid(PilotConfig(points=5))] == [5e-5, 1e-4, 2e-4, 4e-4, 8e-4]


def test_about_as_many_trainings_are_expected_as_are_made():
    settings = PilotConfig(points=5)
    shares = settings.shares
    for bottom in (-1, 0, 1):
        _, tried, _ = pilot(settings, valley(bottom))
        assert abs(sum(shares[trial.rung] for trials in tried for trial in trials) - expected(settings)) <= 1
