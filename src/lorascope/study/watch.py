"""Show a study while it runs: from inside, or from another terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lorascope.console import listening
from lorascope.formats import duration, short
from lorascope.records.record import moment
from lorascope.records.study_record import FINAL, PILOT
from lorascope.study.progress import Progress, Reader, Seen, look
from lorascope.study.schedule import PlannedRun, State

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


STYLES = {"done": "green", "running": "bold", "queued": "dim"}


def watch(
    folder: Path, out: Console, seconds: float, *, sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.time,
) -> bool:  # fmt: skip
    """Show a study's runs until it is finished: anew in a terminal, elsewhere a line whenever a run's state changes.

    Args:
        folder: the study's.
        out: where they are shown.
        seconds: between two looks.
        sleep: waits so long.
        clock: the time, in seconds since 1970.

    Returns:
        Whether the study is finished; False where Ctrl-C ended the watching.

    Raises:
        RunError: when there is no study, or its file is damaged.
    """
    before: dict[str, str] = {}
    reader = Reader(folder)
    try:
        with Live(console=out, auto_refresh=False, vertical_overflow="crop") as screen:
            while True:
                now = look(reader, clock())
                if out.is_terminal:
                    screen.update(_picture(now, out.height), refresh=True)
                else:
                    _tell(now, before, out)
                if now.finished:
                    return True
                sleep(max(seconds, 0.1))
    except KeyboardInterrupt:
        return False


def _tell(now: Progress, before: dict[str, str], out: Console) -> None:
    """A line for each run whose state is another than before, and one for the study if there was any."""
    changed = [one for one in now.runs if one.state != before.get(one.name, "queued")]
    before.update({one.name: one.state for one in now.runs})
    for one in changed:
        out.print(Text(f"{one.state:<10} {one.name}  {words(one)}".rstrip()), soft_wrap=True)
    if changed or now.finished:
        out.print(Text(f"{'study':<10} {total(now)}"), soft_wrap=True)


def _picture(now: Progress, height: int) -> Group:
    """As much as fits: what is running and failed, then what was done last, then what comes next."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(no_wrap=True, overflow="ellipsis")
    for one in fitting(now.runs, max(height - 4, 3)):
        style = STYLES.get(one.state, "red")
        table.add_row(Text(one.state, style=style), Text(one.name), Text(words(one), style="red" if one.error else ""))
    hidden = len(now.runs) - table.row_count
    more = [Text(f"and {hidden} more", style="dim")] if hidden else []
    return Group(Text(f"{now.name}  {total(now)}", style="bold"), table, *more)


def fitting(runs: Sequence[Seen], most: int) -> list[Seen]:
    """At most so many runs, in their order; those at work and those that failed before the others."""
    weight = {"running": 0, "done": 2, "queued": 3}
    order = sorted(range(len(runs)), key=lambda index: (weight.get(runs[index].state, 1), _nearness(runs, index)))
    return [runs[index] for index in sorted(order[:most])]


def _nearness(runs: Sequence[Seen], index: int) -> int:
    """Of what is done the last comes first, of what is queued the next."""
    return -index if runs[index].state == "done" else index


def words(one: Seen) -> str:
    """What a run's line says behind its name."""
    if one.error:
        return one.error
    parts = []
    if one.state == "running":
        parts.append(f"step {one.step}" + (f" of {one.steps}" if one.steps else "") if one.step else "starting")
    if one.loss is not None:
        parts.append(f"{'eval ' if one.state == 'done' else ''}loss {short(one.loss)}")
    if one.state == "done" and one.seconds is not None:
        parts.append(duration(one.seconds))
    if one.left is not None:
        parts.append(f"about {duration(one.left)} left")
    if one.silent:
        parts.append(f"nothing heard for {duration(one.silent)}")
    return ", ".join(parts)


def total(now: Progress) -> str:
    """How far the whole study is: 12 of 40 runs done, 1 running, 27 queued, about 3 h 20 min left."""
    states = Counter(one.state for one in now.runs)
    parts = [f"{states['done']} of {len(now.runs)} runs done"]
    parts += [f"{times} {state}" for state, times in states.items() if state != "done"]
    if now.finished:
        parts.append("finished")
    elif now.left is not None:
        parts.append(f"about {duration(now.left)} left")
    return ", ".join(parts)
