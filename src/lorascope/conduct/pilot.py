"""A learning rate for an arm: what its short trainings came to goes in, the next ones or the rate come out.

Successive halving (Jamieson and Talwalkar, 2016) over a grid with a factor of two: all rates get a share of a training,
the better half a longer one. A short training favours high rates, and a grid may end too early; so the rate that wins
must, at full length, beat both of its neighbours, which are tried if they were not, beyond the grid too.

Everything follows from the losses alone, whatever order they came in: a pilot that was cut goes on from the records.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from lorascope.config import PilotConfig

FACTOR = 2.0


class Trial(NamedTuple):
    """A rate, as so many doublings of the one in the middle, at one of the lengths."""

    rung: int
    step: int

    def rate(self, middle: float) -> float:
        """The learning rate; exact, since the factor is two."""
        return middle * FACTOR**self.step


class Choice(NamedTuple):
    """What a pilot came to: nothing where every rate failed."""

    step: int | None
    note: str = ""


Losses = Mapping[Trial, float]  # not finite: the training failed


def grid(settings: PilotConfig) -> range:
    """The steps of the rates that are tried first; one more above the middle than below where they are even."""
    below = (settings.points - 1) // 2
    return range(-below, settings.points - below)


def next_trials(settings: PilotConfig, losses: Losses) -> list[Trial]:
    """The trainings that are needed next; none when the rate can be chosen."""
    alive = list(grid(settings))
    last = len(settings.shares) - 1
    for rung in range(last + 1):
        trials = [Trial(rung, step) for step in alive]
        if missing := [trial for trial in trials if trial not in losses]:
            return missing
        if rung < last:
            alive = _better_half(trials, losses)
    best = _best(last, losses)
    if best is None:
        return []
    return [
        Trial(last, near)
        for near in (best - 1, best + 1)
        if Trial(last, near) not in losses and not _too_far(near, settings)
    ]


def choice(settings: PilotConfig, losses: Losses) -> Choice:
    """The rate with the lowest loss at full length, once `next_trials` asks for no more."""
    best = _best(len(settings.shares) - 1, losses)
    if best is None:
        return Choice(None, "every rate failed")
    if _too_far(best + 1, settings) or _too_far(best - 1, settings):
        side = "highest" if _too_far(best + 1, settings) else "lowest"
        return Choice(best, f"the best rate is the {side} that was tried: study.pilot.extend allows no further")
    return Choice(best)


def expected(settings: PilotConfig) -> float:
    """About how many whole trainings a pilot takes."""
    alive, total = settings.points, 0.0
    for share in settings.shares:
        total += alive * share
        alive = math.ceil(alive / 2)
    return total + 1  # a neighbour, most often


def _better_half(trials: list[Trial], losses: Losses) -> list[int]:
    """The steps of the better half, rounded up, without those that failed; ties go to the lower rate."""
    ranked = sorted(trials, key=lambda trial: (_key(losses[trial]), trial.step))
    kept = ranked[: math.ceil(len(ranked) / 2)]
    return sorted(trial.step for trial in kept if math.isfinite(losses[trial]))


def _best(rung: int, losses: Losses) -> int | None:
    tried = [trial for trial, loss in losses.items() if trial.rung == rung and math.isfinite(loss)]
    return min(tried, key=lambda trial: (losses[trial], trial.step)).step if tried else None


def _key(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _too_far(step: int, settings: PilotConfig) -> bool:
    first = grid(settings)
    return not first.start - settings.extend <= step < first.stop + settings.extend
