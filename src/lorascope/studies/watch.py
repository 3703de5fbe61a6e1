"""A study that is at work: its folder is read again and again, a line for each run and the time that is left go out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lorascope.studies.progress import Progress, Reader, Seen, look
from lorascope.wording import duration, short

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
