"""The picture of finished runs: eval loss against trainable parameters, as a PNG. Never loads torch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

from lorascope.errors import RunError
from lorascope.records.metrics import EVAL_LOSS
from lorascope.records.record import RunRecord, Status
from lorascope.studies.settings import setting


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
