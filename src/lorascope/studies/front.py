"""Which arms no other beats in both quality and size, and their picture as a PNG. Never loads torch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from lorascope.atomic import replacing
from lorascope.errors import RunError
from lorascope.studies.plots import tick
from lorascope.studies.standings import Comparison, Line
from lorascope.studies.study import Task


def points(found: Sequence[Comparison], task: str) -> list[Line]:
    """The arms of all views on one task that have a value and a size, each once."""
    lines = {line.arm: line for one in found if one.task.name == task for line in one.lines}
    return [line for line in lines.values() if line.mean is not None and line.parameters]


def front(lines: Sequence[Line], better: str) -> list[Line]:
    """Those that no other beats in one of parameters and mean without losing in the other, smallest first."""
    sign = -1 if better == "higher" else 1
    placed = [((line.parameters or 0), sign * (line.mean or 0.0), line) for line in lines]
    kept = [
        (size, cost, line)
        for size, cost, line in placed
        if not any(a <= size and b <= cost and (a, b) != (size, cost) for a, b, _ in placed)
    ]
    return [line for _, _, line in sorted(kept, key=lambda one: one[:2])]


def plot_fronts(found: Sequence[Comparison], tasks: Sequence[Task], file: Path) -> Path | None:
    """Draw a picture for each task; None when no arm has a value.

    Raises:
        RunError: when the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = [(task, lines) for task in tasks if (lines := points(found, task.name))]
    if not drawn:
        return None
    across = min(len(drawn), 2)
    down = -(-len(drawn) // across)
    figure = Figure(figsize=(6.2 * across, 4.3 * down), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (task, lines) in enumerate(drawn):
        _draw(figure.add_subplot(down, across, index + 1), task, lines)
    try:
        with replacing(file) as aside, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(aside, dpi=150, format="png", metadata={"Software": None})
    except OSError as error:
        raise RunError(str(file), f"cannot be written: {error.strerror}.", "Choose a place: --plot FILE") from error
    return file


def _draw(axes: object, task: Task, lines: Sequence[Line]) -> None:
    from typing import Any, cast

    from matplotlib.ticker import FuncFormatter

    picture = cast(Any, axes)
    for line in lines:
        mean = line.mean or 0.0
        spread = None if line.low is None or line.high is None else [[mean - line.low], [line.high - mean]]
        name = line.arm.replace("$", r"\$")
        picture.errorbar([line.parameters], [mean], yerr=spread, fmt="o", capsize=3, label=name)
    best = front(lines, task.better)
    sizes, means = [line.parameters or 0 for line in best], [line.mean or 0.0 for line in best]
    picture.plot(sizes, means, color="0.5", linewidth=1, zorder=0, drawstyle="steps-post")
    picture.set_title(task.name.replace("$", r"\$"), fontsize=10)
    picture.set_xscale("log")
    for axis in (picture.xaxis.set_major_formatter, picture.xaxis.set_minor_formatter):
        axis(FuncFormatter(lambda value, _: tick(value)))
    picture.set_xlabel("trainable parameters")
    picture.set_ylabel(f"{task.metric} ({task.unit}, {task.better} is better)".replace("$", r"\$"), fontsize=9)
    picture.grid(alpha=0.3, which="both")
    picture.legend(fontsize=8)
