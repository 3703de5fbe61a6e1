"""The runs of a study before they are made: the overrides, config and folder of each; and what became of it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from lorascope.conduct.design import Cell, Compose
from lorascope.conduct.pilot import Trial
from lorascope.config import PilotConfig, RunConfig
from lorascope.errors import RunError
from lorascope.planning.run_plan import resolve_config
from lorascope.records.identity import run_name
from lorascope.records.metrics import EVAL_LOSS
from lorascope.records.record import FILE, RunRecord, Status, read_record
from lorascope.records.store import is_at_work
from lorascope.studies.study import FINAL, PILOT, StudyRun

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

    cell: Cell
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

    def final(self, cell: Cell, seed: int, rate: float | None) -> PlannedRun:
        """A run that the verdict is made of; without a rate, the config's own."""
        return self._planned(cell, (), FINAL, seed, rate, None, 1.0)

    def trial(self, cell: Cell, settings: PilotConfig, trial: Trial) -> PlannedRun:
        """A training of the pilot."""
        train, share = cell.config.train, settings.shares[trial.rung]
        overrides = [*BRIEF, f"dataset.validation_share={settings.validation_share!r}"]
        if share < 1 and train.max_steps:
            overrides.append(f"train.max_steps={max(1, round(train.max_steps * share))}")
        elif share < 1:
            overrides.append(f"train.epochs={train.epochs * share!r}")
        rate = trial.rate(train.learning_rate)
        return self._planned(cell, tuple(overrides), PILOT, settings.seed, rate, trial.rung, share)

    def _planned(
        self,
        cell: Cell,
        more: tuple[str, ...],
        stage: str,
        seed: int,
        rate: float | None,
        rung: int | None,
        share: float,
    ) -> PlannedRun:
        overrides = (*cell.overrides, *more)
        if overrides not in self._known:
            self._known[overrides] = resolve_config(self.compose(overrides))
        config = self._known[overrides]
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
            rate=config.train.learning_rate,
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
