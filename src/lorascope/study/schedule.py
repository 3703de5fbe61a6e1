"""Which trainings a study still needs: the pilot's learning rates and the final runs.

Successive halving (Jamieson and Talwalkar, 2016) over a grid with a factor of two: all rates get a share of a training,
the better half a longer one. A short training favours high rates, and a grid may end too early; so the rate that wins
must, at full length, beat both of its neighbours, which are tried if they were not, beyond the grid too.

Everything follows from the losses alone, whatever order they came in: a pilot that was cut goes on from the records.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lorascope.config.schema import PilotConfig, RunConfig
from lorascope.errors import RunError
from lorascope.planning.run_plan import resolve_config
from lorascope.records.identity import run_name
from lorascope.records.record import EVAL_LOSS, FILE, RunRecord, Status, read_record
from lorascope.records.store import is_at_work
from lorascope.records.study_record import FINAL, PILOT, StudyRun
from lorascope.study.design import ArmOnTask, Compose

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


# a pilot's run is asked for its eval loss alone, and nobody but its record is told
BRIEF = (
    "evaluation.tasks=false",
    "evaluation.forgetting.texts=0",
    "evaluation.lm_eval=[]",
    "logger.wandb.enabled=false",
    "logger.tensorboard.enabled=false",
    "logger.trackio.enabled=false",
)


@dataclass(frozen=True)
class PlannedRun:
    """A run that is to be made, or was."""

    cell: ArmOnTask
    overrides: tuple[str, ...]  # behind the command's own
    config: RunConfig  # resolved
    entry: StudyRun

    @property
    def folder(self) -> Path:
        """Where its record is, or will be."""
        return Path(self.config.runs_dir).expanduser() / self.entry.name

    @property
    def title(self) -> str:
        """The run in a line of progress."""
        entry = self.entry
        share = f" {entry.steps:.0%}" if entry.stage == PILOT else ""
        return f"{entry.stage}{share}  {entry.task}  {entry.arm}  seed {entry.seed}  rate {entry.rate:g}"


class StudyPlanner:
    """Makes runs of cells; what they share is composed once."""

    def __init__(self, compose: Compose) -> None:
        self.compose = compose
        self._known: dict[tuple[str, ...], RunConfig] = {}

    def final(self, cell: ArmOnTask, seed: int, rate: float | None) -> PlannedRun:
        """A run that the verdict is made of; without a rate, the config's own."""
        return self._planned(cell, (), FINAL, seed, rate, None, 1.0)

    def trial(self, cell: ArmOnTask, settings: PilotConfig, trial: Trial) -> PlannedRun:
        """A training of the pilot."""
        train, share = self._resolved(cell.overrides).train, settings.shares[trial.rung]
        overrides = [*BRIEF, f"dataset.validation_share={settings.validation_share!r}"]
        if share < 1 and train.max_steps:
            overrides.append(f"train.max_steps={max(1, round(train.max_steps * share))}")
        elif share < 1:
            overrides.append(f"train.epochs={train.epochs * share!r}")
        rate = trial.rate(train.rate)
        return self._planned(cell, tuple(overrides), PILOT, settings.seed, rate, trial.rung, share)

    def middle(self, cell: ArmOnTask) -> float:
        """The learning rate around which the pilot's lie."""
        return self._resolved(cell.overrides).train.rate

    def _resolved(self, overrides: tuple[str, ...]) -> RunConfig:
        if overrides not in self._known:
            self._known[overrides] = resolve_config(self.compose(overrides))
        return self._known[overrides]

    def _planned(
        self,
        cell: ArmOnTask,
        more: tuple[str, ...],
        stage: str,
        seed: int,
        rate: float | None,
        rung: int | None,
        share: float,
    ) -> PlannedRun:
        overrides = (*cell.overrides, *more)
        config = self._resolved(overrides)
        overrides = (*overrides, f"seed={seed}")
        if rate is not None:
            config = dataclasses.replace(config, train=dataclasses.replace(config.train, learning_rate=rate))
            overrides = (*overrides, f"train.learning_rate={rate!r}")
        config = dataclasses.replace(config, seed=seed)
        entry = StudyRun(
            name=run_name(config),
            stage=stage,
            task=cell.task.name,
            arm=cell.arm.name,
            seed=seed,
            rate=config.train.rate,
            rung=rung,
            steps=share,
        )
        return PlannedRun(cell, overrides, config, entry)


@dataclass(frozen=True)
class State:
    """What became of a run so far."""

    status: str  # queued, running, done, failed
    record: RunRecord | None = None
    reason: str = ""

    @property
    def loss(self) -> float:
        """Its eval loss; not a number where there is none."""
        loss = self.record.metric(EVAL_LOSS.name) if self.record else None
        return math.nan if loss is None else loss


def state_of(run: PlannedRun) -> State:
    """As its folder tells. What was cut is queued, since the same command goes on with it."""
    if is_at_work(run.folder):
        return State("running")
    if not (run.folder / FILE).is_file():
        return State("queued")
    try:
        record = read_record(run.folder)
    except RunError:
        return State("queued")  # damaged: it is repeated
    if record.status is Status.done:
        return State("done", record)
    if record.status in (Status.failed, Status.oom):
        reported = str(record.error or record.status).partition("\n")[0]
        return State("failed", record, reported.removeprefix("RunError: ").removeprefix("DataError: "))
    return State("queued", record)
