"""All that a run prints: its plan, its progress and its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorascope.config.schema import RunConfig
from lorascope.console import console
from lorascope.data.tokenization import TokenizedSplit
from lorascope.evaluation.tasks import Evaluated
from lorascope.formats import megabytes
from lorascope.planning.plan_view import show_plan, show_run_plan
from lorascope.planning.run_plan import RunPlan
from lorascope.records.record import EVAL_LOSS, TRAIN_LOSS, RunRecord


class RunReporter:
    """Prints to a console; a study passes a quiet one and reports its runs itself."""

    def __init__(self, out: Console | None = None) -> None:
        self.out = out or console()

    def found_done(self, record: RunRecord) -> None:
        """This run is done already."""
        loss = record.metric(EVAL_LOSS.name)
        found = "no eval loss in its record" if loss is None else f"eval loss {loss:.4f}"
        self.out.print(f"[bold]{record.name}[/]  This run is done: {found}. overwrite=true repeats it.")

    def planned(self, plan: RunPlan) -> None:
        """What will be trained, and the estimates."""
        show_run_plan(self.out, plan)
        if plan.config.dry_run:
            self.out.print("Nothing was run (dry_run=true).")

    def started(self, record: RunRecord, config: RunConfig, folder: Path) -> None:
        """The run's name, device, base and folder."""
        scheme, dtype = str(config.quantization.scheme), config.model.dtype
        storage = str(dtype) if scheme == "none" else f"{scheme}, computing in {dtype}"
        self.out.print(f"\nrun     [bold]{record.name}[/]   {config.device}, base {storage}   {folder}")

    def placed(self, plan: RunPlan) -> None:
        """The plan of an automatic placement."""
        assert plan.target
        show_plan(self.out, plan.target, plan.modules)

    def resumed(self, step: int) -> None:
        """The run is resumed from this step."""
        self.out.print(f"resuming from the checkpoint of step {step}")

    def base(self, found: Evaluated, evaluation: TokenizedSplit) -> None:
        """The base's own eval loss."""
        supervised = f"{evaluation.supervised_tokens:,} tokens of {len(evaluation)} rows"
        self.out.print(f"base eval loss {found.scores[EVAL_LOSS.name].value:.4f} nats/token, over {supervised}")

    def result(self, record: RunRecord, folder: Path) -> None:
        """The eval loss, time, memory, a line for each other metric, and the record's path."""
        loss, timing = record.metrics[EVAL_LOSS.name], record.timing
        self.out.print(
            f"[bold]eval loss {loss['value']:.4f}[/]  (base {loss['base']:.4f}, lower is better)   "
            f"{timing['steps']} steps in {timing['train_loop_seconds']:.0f} s, "
            f"{timing['tokens_per_second']:.0f} tok/s, peak memory {megabytes(record.memory['peak_bytes'])} "
            f"(predicted {megabytes(record.memory['predicted_bytes'])})"
        )
        losses = (EVAL_LOSS.name, TRAIN_LOSS.name)
        if others := {name: entry for name, entry in record.metrics.items() if name not in losses}:
            show_metrics(self.out, others)
        self.out.print(f"record  {folder / 'run.json'}")

    def notes(self, notes: Iterable[str]) -> None:
        """A line of each tracker."""
        for note in notes:
            self.out.print(note)


def show_metrics(out: Console, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a line for each of a record's metrics."""
    table = Table(box=None, pad_edge=False)
    for title in ("metric", "value", "95 % over items", "base", "without a model", "items", ""):
        table.add_column(title, justify="left" if title in ("metric", "without a model", "") else "right")
    for name, entry in metrics.items():
        interval = f"{_short(entry['low'])} to {_short(entry['high'])}" if "low" in entry else "-"
        trivial = ", ".join(f"{what} {_short(value)}" for what, value in entry.get("baselines", {}).items())
        base = "-" if entry["base"] is None else _short(entry["base"])
        direction = f"{entry['unit']}, {entry['better']} is better"
        cells = (name, _short(entry["value"]), interval, base, trivial or "-", f"{entry.get('items', '-')}", direction)
        table.add_row(*map(Text, cells))
    out.print(table)


def _short(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
