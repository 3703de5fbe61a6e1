"""The table of finished runs: records come in, sorted rows go out. Never loads torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from lorascope.records.record import RunRecord, Status
from lorascope.terminal import megabytes


def rows_of(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """A flat row for each run: done ones first, by eval loss, then the others by name."""
    return [_row(record) for record in sorted(records, key=_order)]


def _order(record: RunRecord) -> tuple[bool, float, str]:
    loss = record.metric("eval_loss")
    unfinished = record.status is not Status.done or loss is None
    return unfinished, 0.0 if loss is None else loss, record.name


def _row(record: RunRecord) -> dict[str, Any]:
    config = record.config
    return {
        "name": record.name,
        "run_id": record.run_id,
        "status": str(record.status),
        "target": config["target"]["name"],
        "model": config["model"]["name"],
        "dataset": config["dataset"]["name"],
        "seed": config["seed"],
        "quantization": config["quantization"]["scheme"],
        "ranks": _ranks(record.plan.get("modules", [])),
        "learning_rate": config["train"]["learning_rate"],
        "trainable_parameters": record.plan.get("trainable_parameters"),
        "trainable_percent": record.plan.get("trainable_percent"),
        "eval_loss": record.metric("eval_loss"),
        "base_eval_loss": record.metrics.get("eval_loss", {}).get("base"),
        "train_loss": record.metric("train_loss"),
        "tokens_per_second": record.timing.get("tokens_per_second"),
        "total_seconds": record.timing.get("total_seconds"),
        "peak_bytes": record.memory.get("peak_bytes"),
        "fingerprint": record.fingerprint.get("hash"),
        "error": record.error,
    }


def _ranks(modules: list[dict[str, Any]]) -> str:
    """The ranks that occur, highest first: 8/4."""
    return "/".join(str(rank) for rank in sorted({module["rank"] for module in modules}, reverse=True))


def show_report(out: Console, records: Sequence[RunRecord]) -> None:
    """Print the table, and a warning where runs cannot be compared."""
    rows = rows_of(records)
    # what all runs share goes into the heading, what differs into columns
    varying = [key for key in ("model", "dataset", "quantization", "seed") if len({row[key] for row in rows}) > 1]
    shared = [f"{key} {rows[0][key]}" for key in ("model", "dataset", "quantization", "seed") if key not in varying]
    out.print(f"[bold]{_number(len(rows), 'run')}[/]   {', '.join(shared)}")
    table = Table(box=None, pad_edge=False)
    for title in ("target", *varying, "rank"):
        table.add_column(title)
    for title in ("parameters", "of base", "rate", "eval loss", "base", "tok/s", "peak", "time", "status"):
        table.add_column(title, justify="right" if title != "status" else "left")
    for row in rows:
        table.add_row(row["target"], *(str(row[key]) for key in varying), row["ranks"], *_cells(row))
    out.print(table)
    _warn_of_differences(out, rows)


def _cells(row: dict[str, Any]) -> list[str]:
    def shown(key: str, form: str) -> str:
        return "-" if row[key] is None else form.format(row[key])

    return [
        shown("trainable_parameters", "{:,}"),
        shown("trainable_percent", "{:.2f} %"),
        shown("learning_rate", "{:g}"),
        shown("eval_loss", "{:.4f}"),
        shown("base_eval_loss", "{:.4f}"),
        shown("tokens_per_second", "{:.0f}"),
        "-" if row["peak_bytes"] is None else megabytes(row["peak_bytes"]),
        shown("total_seconds", "{:.0f} s"),
        row["status"] + (f": {str(row['error']).splitlines()[0][:60]}" if row["error"] else ""),
    ]


def _warn_of_differences(out: Console, rows: list[dict[str, Any]]) -> None:
    fingerprints = {row["fingerprint"] for row in rows if row["fingerprint"]}
    if len(fingerprints) > 1:
        out.print(
            f"[yellow]note[/]  {len(fingerprints)} different fingerprints: these runs differ in data, base, number "
            "format or kernels, so their losses are not comparable as they stand."
        )
    seeds = {row["seed"] for row in rows}
    if len(seeds) < 5 and len({row["target"] for row in rows}) > 1:
        out.print(f"{_number(len(seeds), 'seed')}, one learning rate for all arms: a first look, not a verdict.")


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
