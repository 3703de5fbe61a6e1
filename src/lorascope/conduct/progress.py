"""What is shown while a study runs: a line for every run that ends, and one for the run at work."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from lorascope.conduct.planned import Planned, State
from lorascope.records.moments import moment
from lorascope.terminal import listening
from lorascope.wording import duration

COLOURS = {"done": "green", "failed": "red", "queued": "dim", "running": "cyan"}


class Progress:
    """The study's lines, and how long the rest may take."""

    def __init__(self, out: Console) -> None:
        self.out = out
        self.left = 0.0  # whole trainings
        self.made = 0.0  # whole trainings that ended since the first began, here or in another process
        self._began: float | None = None
        self.now = Text("")
        self.live = Live(self.now, console=out, transient=True, auto_refresh=False) if out.is_terminal else None
        self._listening = listening(self._heard)
        self._title = ""

    def __enter__(self) -> Progress:
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

    def begin(self, run: Planned) -> None:
        """This run is at work now."""
        self._began = self._began or time.time()
        self._title = run.title
        self._show(f"running  {run.title}")

    def end(self, run: Planned, state: State, seconds: float | None) -> None:
        """A run ended in this session, or was found so."""
        self.left = max(0.0, self.left - run.entry.steps)
        if state.status == "done" and (seconds is not None or self._is_new(state)):
            self.made += run.entry.steps
        colour = COLOURS[state.status]
        told = f"[{colour}]{state.status:<7}[/]  {escape(run.title)}"
        if state.status == "done":
            told += f"  eval loss {state.loss:.4f}"
        if state.reason:
            told += f"  {escape(state.reason[:100])}"
        if seconds is not None:
            told += f"  {duration(seconds)}{self._rest()}"
        self.out.print(told)
        self._show("")

    def _rest(self) -> str:
        rest = self.eta()
        return f"   about {duration(rest)} left" if rest else ""

    def eta(self) -> float | None:
        """Seconds that the rest may take if all go on as since the first run began; None while nothing is known."""
        if not (self._began and self.made and self.left):
            return None
        return self.left * (time.time() - self._began) / self.made

    def _is_new(self, state: State) -> bool:
        """Whether another process made the run while this one was at work, rather than before."""
        finished = state.record.finished if state.record else None
        return bool(self._began and moment(finished) > self._began)

    def _heard(self, title: str, done: int, total: int, note: str) -> None:
        self._show(f"running  {self._title}   {title.strip()} {done}/{total}  {note}")

    def _show(self, line: str) -> None:
        if self.live:
            self.live.update(Text(line, style="cyan", no_wrap=True, overflow="ellipsis"), refresh=True)
