"""Pictures of runs as PNG: eval loss by parameters, and the Pareto front."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

from lorascope.errors import RunError
from lorascope.records.record import EVAL_LOSS, RunRecord, Status, replacing
from lorascope.records.study_record import Task
from lorascope.reports.run_table import setting
from lorascope.reports.standings import Line, TaskComparison


def points(found: Sequence[TaskComparison], task: str) -> list[Line]:
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


def plot_fronts(found: Sequence[TaskComparison], tasks: Sequence[Task], file: Path) -> Path | None:
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


def plot_loss(records: Sequence[RunRecord], file: Path) -> Path | None:
    """Draw a point for each finished run; None when there is none.

    Raises:
        RunError: when the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    done = [
        record
        for record in records
        if record.status is Status.done
        and _is_number(record.metric(EVAL_LOSS.name))
        and (record.plan.get("trainable_parameters") or 0) > 0
    ]
    if not done:
        return None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    targets = sorted({str(setting(record, "target.name")) for record in done})
    for target in targets:
        points = [
            (int(record.plan["trainable_parameters"]), record.metric(EVAL_LOSS.name) or 0.0)
            for record in done
            if str(setting(record, "target.name")) == target
        ]
        axes.scatter([x for x, _ in points], [y for _, y in points], label=target.replace("$", r"\$"), s=45)
    bases = {base for record in done if (base := record.metrics[EVAL_LOSS.name].get("base")) is not None}
    axes.set_title(
        f"{len(done)} runs; base eval loss {', '.join(f'{base:.3f}' for base in sorted(bases))}", fontsize=10
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: tick(value)))
    axes.set_xlabel("trainable parameters")
    axes.set_ylabel("eval loss (nats/token, lower is better)")
    axes.grid(alpha=0.3, which="both")
    axes.legend(title="target")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(file, dpi=150)
    except OSError as error:
        raise RunError(str(file), f"cannot be written: {error.strerror}.", "Choose a place: --plot FILE") from error
    return file


def _is_number(loss: float | None) -> bool:
    return loss is not None and math.isfinite(loss)


def tick(parameters: float) -> str:
    """A number of parameters on the axis: 500K, 1.2M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= size:
            return f"{parameters / size:g}{letter}"
    return f"{parameters:g}"
