"""Run a study: plan arms, pilot learning rates, run fresh seeds, report.

All that is decided follows from the records of its runs, so the same command goes on wherever it was cut, and several
processes may work at one study: each takes the runs that no other holds.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.markup import escape

from lorascope.config.machine import check_variables
from lorascope.config.schema import RunConfig
from lorascope.console import console, result, warn
from lorascope.errors import RunError
from lorascope.interrupts import stop_if_asked
from lorascope.records.record import now
from lorascope.records.study_record import FINAL, PILOT, Study, read_study, write_study
from lorascope.study.design import ArmOnTask, Design, design
from lorascope.study.preflight import plan_study, show_runs, show_study
from lorascope.study.schedule import PlannedRun, State, StudyPlanner, Trial, choice, expected, next_trials, state_of
from lorascope.study.watch import StudyProgress

ATTEMPTS = 2  # at a run that ends without saying how
POLL = 2.0  # seconds between two looks at a run that another process holds


class Door(Protocol):
    """What makes configs of overrides, and runs of them."""

    @property
    def one_by_one(self) -> bool:
        """Whether runs wait for each other in any case, so that they may be handed over singly."""

    def compose(self, overrides: Sequence[str]) -> RunConfig:
        """The config of the command's overrides and these."""

    def launch(self, batch: Sequence[Sequence[str]]) -> list[str | None]:
        """Make runs of the command's overrides and each of these; the reason for each that failed."""


def conduct(config: RunConfig, door: Door, out: Console | None = None) -> None:
    """Make a study, go on with it, or find it done.

    Args:
        config: of the command, without arms and seeds; `config.study` decides.
        door: to Hydra.
        out: where to show what happens; the terminal by default.

    Raises:
        ConfigError: for settings that make no study.
        RunError: at the end, when runs failed.
    """
    out = out or console()
    check_variables()
    made = design(config.study, door.compose)
    Conductor(config, made, door, out).run()


@dataclass
class Conductor:
    """A study at work."""

    config: RunConfig
    design: Design
    door: Door
    out: Console
    failed: dict[str, str] = field(default_factory=dict)  # title -> reason
    rates: dict[str, dict[str, float]] = field(default_factory=dict)  # task -> arm -> rate
    notes: list[str] = field(default_factory=list)
    planned: dict[str, PlannedRun] = field(default_factory=dict)  # by name
    known: dict[str, State] = field(default_factory=dict)  # how runs ended
    attempts: Counter[str] = field(default_factory=Counter)
    began: str = field(default_factory=now)  # at the first of all sessions

    def __post_init__(self) -> None:
        self.planner = StudyPlanner(self.door.compose)
        self.settings = self.config.study
        self.folder = Path(self.config.runs_dir).expanduser()
        self.progress = StudyProgress(self.out)

    def run(self) -> None:
        """The story."""
        found = plan_study(self.out, self.config, self.design, self.planner)
        show_study(self.out, self.config, self.design, found)
        if self.config.dry_run:
            show_runs(self.out, self.design, self.planner, self.settings, found)
            self.out.print("Nothing was run (dry_run=true).")
            result(None, lambda: {"study": self.settings.name, "arms": [asdict(arm) for arm in self.design.arms]})
            return
        cells = [cell for cell in self.design.cells if cell.key not in found.refused]
        self.failed |= {f"{task}  {arm}": reason for (task, arm), reason in found.refused.items()}
        self.progress.left[FINAL] = float(len(cells) * len(self.settings.seeds))
        with self.progress:
            if self.settings.pilot.points:
                self._pilot(cells)
            self._finals(cells)
        self._write(finished=True)
        self._end()

    def _pilot(self, cells: Sequence[ArmOnTask]) -> None:
        """A rate for every cell, by rounds, so that each round is one batch."""
        losses: dict[int, dict[Trial, float]] = {id(cell): {} for cell in cells}
        settings = self.settings.pilot
        self.progress.left[PILOT] = len(cells) * expected(settings)
        while True:
            runs = {
                (id(cell), trial): self.planner.trial(cell, settings, trial)
                for cell in cells
                for trial in next_trials(settings, losses[id(cell)])
            }
            if not runs:
                break
            needed = sum(run.entry.steps for run in runs.values())
            self.progress.left[PILOT] = max(self.progress.left[PILOT], needed)
            self._make(list(runs.values()))
            for (key, trial), run in runs.items():
                losses[key][trial] = self.known[run.entry.name].loss
        self.progress.left[PILOT] = 0.0
        for cell in cells:
            found = choice(settings, losses[id(cell)])
            where = f"{cell.task.name}, {cell.arm.name}"
            if found.note:
                self.notes.append(f"{where}: {found.note}")
            if found.step is not None:
                rate = Trial(0, found.step).rate(self.planner.middle(cell))
                self.rates.setdefault(cell.task.name, {})[cell.arm.name] = rate
        self._report_rates()

    def _report_rates(self) -> None:
        for task, rates in self.rates.items():
            chosen = ", ".join(f"{arm} {rate:g}" for arm, rate in rates.items())
            self.out.print(f"[bold]rates[/]    {escape(task)}: {escape(chosen)}")
        for note in self.notes:
            self.out.print(f"[yellow]note[/]  {escape(note)}")

    def _finals(self, cells: Sequence[ArmOnTask]) -> None:
        """Every seed of every arm at its own rate: seed by seed, so that a study that is cut holds whole pairs."""
        piloted = bool(self.settings.pilot.points)
        runs = []
        for seed in self.settings.seeds:
            for cell in cells:
                rate = self.rates.get(cell.task.name, {}).get(cell.arm.name)
                if rate is not None or not piloted:
                    runs.append(self.planner.final(cell, seed, rate))
        self._make(runs)

    def _make(self, runs: Sequence[PlannedRun]) -> None:
        """Make what is not made, and wait for what other processes hold."""
        if not self.planned:
            self._look_at_what_was_here({run.entry.name for run in runs})
        self.planned |= {run.entry.name: run for run in runs}
        self._write()
        waiting = list(dict.fromkeys(run.entry.name for run in runs if run.entry.name not in self.known))
        while waiting := [name for name in waiting if name not in self.known]:
            queued = []
            for name in waiting:
                state = state_of(self.planned[name])
                if state.status == "done" or (state.status == "failed" and not self.settings.retry):
                    self._ended({name: state}, None)
                elif state.status != "running":
                    queued.append(name)
            if queued:
                self._launch(queued[:1] if self.door.one_by_one else queued)
            elif any(name not in self.known for name in waiting):
                stop_if_asked()
                time.sleep(POLL)

    def _launch(self, names: Sequence[str]) -> None:
        began = time.perf_counter()
        runs = [self.planned[name] for name in names]
        self.progress.begin(runs[0])
        reasons = self.door.launch([run.overrides for run in runs])
        seconds = (time.perf_counter() - began) / len(runs)
        ended = {}
        for run, reason in zip(runs, reasons, strict=True):
            state = state_of(run)
            self.attempts[run.entry.name] += 1
            if state.status == "running" or (state.status == "queued" and self.attempts[run.entry.name] < ATTEMPTS):
                continue  # another process was faster, and may have been cut meanwhile
            if state.status != "done":
                state = State("failed", state.record, state.reason or reason or "ended without a record")
            ended[run.entry.name] = state
        self._ended(ended, seconds)

    def _ended(self, states: dict[str, State], seconds: float | None) -> None:
        self.known |= states
        self.failed |= {
            self.planned[name].title: state.reason for name, state in states.items() if state.status == "failed"
        }
        self.progress.end([(self.planned[name], state) for name, state in states.items()], seconds)

    def _write(self, *, finished: bool = False) -> None:
        """What is known so far, for whoever follows."""
        config = self.config
        study = Study(
            name=str(config.study.name),
            title=config.study.title,
            command=" ".join(["python train.py", *sys.argv[1:]]),
            started=self.began,
            seeds=list(config.study.seeds),
            reference=self.design.reference,
            level=config.study.level,
            views=self.design.views,
            arms=self.design.arms,
            tasks=self.design.tasks,
            runs=[run.entry for run in self.planned.values()],
            rates=self.rates,
            notes=self.notes,
            finished=now() if finished else None,
        )
        write_study(study, self.folder)

    def _look_at_what_was_here(self, first: set[str]) -> None:
        """This study, cut or done, whose beginning stands; or another one, which the user may want to keep.

        Args:
            first: the names of this study's first runs.
        """
        with suppress(RunError):
            before = read_study(self.folder)
            if not first or first & {run.name for run in before.runs}:
                self.began = before.started
            elif before.runs:
                warn(
                    f"{self.folder} held another study, {before.command}: this one's report takes its place. The runs "
                    "of both are kept, and that command brings it back; another runs_dir=FOLDER keeps them apart"
                )

    def _end(self) -> None:
        """The report; then what failed, as an error."""
        from lorascope.reports.findings import as_dict
        from lorascope.reports.run_table import plain
        from lorascope.reports.study_report import write_report

        found = write_report(self.folder, self.out, tell=True)
        result(self.folder, lambda: plain(as_dict(found)))
        if self.failed:
            lines = "\n    ".join(f"{title}: {reason}" for title, reason in self.failed.items())
            raise RunError(
                str(self.folder),
                f"{len(self.failed)} of its runs failed:\n    {lines}",
                "The others are in the report. study.retry=true tries them again.",
            )
