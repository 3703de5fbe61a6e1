"""The tables of docs/results.md out of run records:  python scripts/results.py runs/first_look > tables.md"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lorascope.records.record import RunRecord, Status
from lorascope.records.store import load_runs
from lorascope.reports.run_table import setting

LOSSES = ("eval_loss", "forgetting_kl")


def tables(records: Sequence[RunRecord]) -> str:
    """A table for each data set: a line an arm, then what no arm was needed for."""
    by_task: dict[str, list[RunRecord]] = {}
    for record in sorted(records, key=lambda one: (one.plan.get("trainable_parameters", 0), one.name)):
        if record.status is Status.done:
            by_task.setdefault(str(setting(record, "dataset.name")), []).append(record)
    return "\n".join(_table(task, runs) for task, runs in sorted(by_task.items()))


def _table(task: str, runs: Sequence[RunRecord]) -> str:
    names = [name for name in runs[0].metrics if name not in ("train_loss", "forgetting_loss")]
    names.sort(key=lambda name: (name not in LOSSES[:1], name in LOSSES[1:]))
    heads = ["target", "parameters", *[_title(name, runs[0].metrics[name]) for name in names], "tok/s", "minutes"]
    lines = [f"### {task}", "", _line(heads), _line(["---"] * len(heads))]
    for record in runs:
        cells = [_cell(record.metrics[name]) for name in names]
        parameters = f"{record.plan['trainable_parameters']:,}"
        speed = f"{record.timing['tokens_per_second']:.0f}"
        minutes = f"{record.timing['total_seconds'] / 60:.1f}"
        lines.append(_line([f"`{setting(record, 'target.name')}`", parameters, *cells, speed, minutes]))
    first = runs[0].metrics
    lines.append(_line(["base", "0", *[_base(first[name]) for name in names], "", ""]))
    titles = dict.fromkeys(title for name in names for title in first[name].get("baselines", {}))
    for title in titles:
        found = [first[name].get("baselines", {}).get(title) for name in names]
        lines.append(_line([title, "", *["" if value is None else _short(value) for value in found], "", ""]))
    return "\n".join([*lines, ""])


def _title(name: str, entry: Mapping[str, Any]) -> str:
    items = f", {entry['items']} items" if name not in LOSSES and entry.get("items") else ""
    return f"{name} ({entry['unit']}{items})"


def _cell(entry: Mapping[str, Any]) -> str:
    ends = f" [{_short(entry['low'])}, {_short(entry['high'])}]" if "low" in entry else ""
    return _short(entry["value"]) + ends


def _base(entry: Mapping[str, Any]) -> str:
    if entry["base"] is None:
        return ""
    ends = f" [{_short(entry['base_low'])}, {_short(entry['base_high'])}]" if "base_low" in entry else ""
    return _short(entry["base"]) + ends


def _short(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    records, damaged = load_runs(sys.argv[1] if len(sys.argv) > 1 else "runs/first_look")
    for error in damaged:
        print(error, file=sys.stderr)
    print(tables(records))
