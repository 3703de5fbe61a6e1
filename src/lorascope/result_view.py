"""What a run came to, as its last lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorascope.records.record import RunRecord
from lorascope.wording import megabytes


def show_result(out: Console, record: RunRecord, folder: Path) -> None:
    """The eval loss, a line for each other metric, time, memory, and where the record lies."""
    loss, timing = record.metrics["eval_loss"], record.timing
    out.print(
        f"[bold]eval loss {loss['value']:.4f}[/]  (base {loss['base']:.4f}, lower is better)   "
        f"{timing['steps']} steps in {timing['train_loop_seconds']:.0f} s, {timing['tokens_per_second']:.0f} tok/s, "
        f"peak memory {megabytes(record.memory['peak_bytes'])} "
        f"(predicted {megabytes(record.memory['predicted_bytes'])})"
    )
    others = {name: entry for name, entry in record.metrics.items() if name not in ("eval_loss", "train_loss")}
    if others:
        show_metrics(out, others)
    out.print(f"record  {folder / 'run.json'}")


def show_metrics(out: Console, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """A line for each metric, as a record keeps it."""
    table = Table(box=None, pad_edge=False)
    for title in ("metric", "value", "95 % over items", "base", "without a model", "items", ""):
        table.add_column(title, justify="left" if title in ("metric", "without a model", "") else "right")
    for name, entry in metrics.items():
        interval = f"{_short(entry['low'])} to {_short(entry['high'])}" if "low" in entry else "-"
        trivial = ", ".join(f"{what} {_short(value)}" for what, value in entry.get("baselines", {}).items())
        base = "-" if entry["base"] is None else _short(entry["base"])
        told = f"{entry['unit']}, {entry['better']} is better"
        cells = (name, _short(entry["value"]), interval, base, trivial or "-", f"{entry.get('items', '-')}", told)
        table.add_row(*map(Text, cells))
    out.print(table)


def _short(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
