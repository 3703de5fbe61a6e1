"""What is shown while a study runs: a line for every run that ends, and one for the run at work."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from lorascope.conduct.planned import PlannedRun, State
from lorascope.records.moments import moment
from lorascope.studies.study import FINAL, PILOT
from lorascope.terminal import listening
from lorascope.wording import duration

COLOURS = {"done": "green", "failed": "red", "queued": "dim", "running": "cyan"}


class StudyProgress:
    """The study's lines, and how long the rest may take."""

    def __init__(self, out: Console) -> None:
        self.out = out
        self.left = {PILOT: 0.0, FINAL: 0.0}  # whole trainings; of a pilot's, as many as are expected
        self.made = 0.0  # whole trainings that ended since the first began, here or in another process
        self._began: float | None = None
        self.now = Text("")
        self.live = Live(self.now, console=out, transient=True, auto_refresh=False) if out.is_terminal else None
        self._listening = listening(self._heard)
        self._title = ""

    def __enter__(self) -> StudyProgress:
        self._listening.__enter__()
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()
        self._listening.__exit__(kind, error, trace)

    def begin(self, run: PlannedRun) -> None:
        """This run is at work now."""
        self._began = self._began or time.time()
        self._title = run.title
        self._show(f"running  {run.title}")

    def end(self, ended: Sequence[tuple[PlannedRun, State]], seconds: float | None) -> None:
        """Runs ended in this session, each after so many seconds, or were found so."""
        for run, state in ended:
            stage = run.entry.stage
            self.left[stage] = max(0.0, self.left[stage] - run.entry.steps)
            if state.status == "done" and (seconds is not None or self._is_new(state)):
                self.made += run.entry.steps
        for run, state in ended:
            self._report(run, state, seconds)
        self._show("")

    def _report(self, run: PlannedRun, state: State, seconds: float | None) -> None:
        colour = COLOURS[state.status]
        line = f"[{colour}]{state.status:<7}[/]  {escape(run.title)}"
        if state.status == "done":
            line += f"  eval loss {state.loss:.4f}"
        if state.reason:
            line += f"  {escape(state.reason[:100])}"
        if seconds is not None:
            line += f"  {duration(seconds)}{self._rest()}"
        self.out.print(line)

    def _rest(self) -> str:
        rest = self.eta()
        return f"   about {duration(rest)} left" if rest else ""

    def eta(self) -> float | None:
        """Seconds that the rest may take if all go on as since the first run began; None while nothing is known."""
        left = sum(self.left.values())
        return left * (time.time() - self._began) / self.made if self._began and self.made and left else None

    def _is_new(self, state: State) -> bool:
        """Whether another process made the run while this one was at work, rather than before."""
        finished = state.record.finished if state.record else None
        return bool(self._began and moment(finished) > self._began)

    def _heard(self, title: str, done: int, total: int, note: str) -> None:
        self._show(f"running  {self._title}   {title.strip()} {done}/{total}  {note}")

    def _show(self, line: str) -> None:
        if self.live:
            self.live.update(Text(line, style="cyan", no_wrap=True, overflow="ellipsis"), refresh=True)
