"""Runs as flat rows: to sort, show and export."""

from __future__ import annotations

import csv
import io
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.table import Table
from rich.text import Text

from lorascope.config.schema import RunConfig, as_dict
from lorascope.errors import ConfigError, RunError
from lorascope.formats import megabytes
from lorascope.records.identity import ELSEWHERE
from lorascope.records.record import EVAL_LOSS, TRAIN_LOSS, RunRecord, Status

SUGGESTED = "model.learning_rate"  # a preset's suggestion; train.learning_rate is what counts


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys; an empty mapping leaves nothing."""
    if not isinstance(values, Mapping):
        return {prefix: values} if prefix else {}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def deciding(record: RunRecord) -> dict[str, Any]:
    """The settings that decide the run's result, by dotted key; as `records.identity` sees them.

    What an older record does not name had its default then, so it has it here.
    """
    settings = flat(as_dict(RunConfig())) | flat(record.config)
    return {
        key: value for key, value in settings.items() if key.partition(".")[0] not in ELSEWHERE and key != SUGGESTED
    }


def setting(record: RunRecord, key: str) -> Any:
    """One setting by its dotted key; None where an older record has none."""
    value: Any = record.config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Key -> both values, where they differ; a key that is absent counts as null, so that old records compare."""
    keys = dict.fromkeys([*first, *second])
    return {key: [first.get(key), second.get(key)] for key in keys if first.get(key) != second.get(key)}


def plain(value: Any) -> Any:
    """The value as strict JSON has it: a loss that is not a number becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


Row = dict[str, Any]
METRIC = "metrics."  # before a metric's name, as a field of a row


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, the row's field, and how a value reads."""

    title: str
    field: str
    form: Callable[[Any], str] = str
    right: bool = False


def number(pattern: str) -> Callable[[Any], str]:
    """A way to show a value, such as `{:.4f}`."""
    return lambda value: pattern.format(value)


TARGET = Column("target", "target")
CONTEXT = (
    Column("model", "model"),
    Column("dataset", "dataset"),
    Column("quantization", "quantization"),
)
SEED = Column("seed", "seed", right=True)
STRATEGY = (
    Column("rank", "ranks"),
    Column("parameters", "trainable_parameters", number("{:,}"), right=True),
    Column("of base", "trainable_percent", number("{:.2f} %"), right=True),
    Column("rate", "learning_rate", number("{:g}"), right=True),
)
LOSS = Column("eval loss", EVAL_LOSS.name, number("{:.4f}"), right=True)
COST = (
    Column("base", "base_eval_loss", number("{:.4f}"), right=True),
    Column("tok/s", "tokens_per_second", number("{:.0f}"), right=True),
    Column("peak", "peak_bytes", megabytes, right=True),
)
TIME = Column("time", "total_seconds", number("{:.0f} s"), right=True)
STATUS = Column("status", "status")
RUN_COLUMNS = (TARGET, *CONTEXT, SEED, *STRATEGY, LOSS, *COST, TIME, STATUS)


def rows_of(records: Sequence[RunRecord]) -> list[Row]:
    """A flat row for each run: done ones first, by eval loss, then the others by name."""
    names = metric_names(records)
    return [
        _row(record) | {METRIC + name: record.metric(name) for name in names} for record in sorted(records, key=_order)
    ]


def metric_names(records: Sequence[RunRecord]) -> list[str]:
    """What the runs were judged by besides their losses."""
    found = dict.fromkeys(name for record in records for name in record.metrics)
    return [name for name in found if name not in (EVAL_LOSS.name, TRAIN_LOSS.name)]


def metric_columns(rows: Sequence[Row]) -> list[Column]:
    """A column for each metric of the eval halves; those of other sets and of forgetting are in the CSV and JSON."""
    names = [field.removeprefix(METRIC) for field in (rows[0] if rows else {}) if field.startswith(METRIC)]
    shown = [name for name in names if "/" not in name and not name.startswith("forgetting_")]
    return [Column(name, METRIC + name, number("{:.3f}"), right=True) for name in shown]


def _order(record: RunRecord) -> tuple[bool, float, str]:
    loss = record.metric(EVAL_LOSS.name)
    judged = record.status is Status.done and loss is not None and math.isfinite(loss)
    return not judged, loss if judged and loss is not None else 0.0, record.name


def _row(record: RunRecord) -> Row:
    return {
        "name": record.name,
        "run_id": record.run_id,
        "status": str(record.status),
        "target": setting(record, "target.name"),
        "model": setting(record, "model.name"),
        "dataset": setting(record, "dataset.name"),
        "seed": setting(record, "seed"),
        "quantization": setting(record, "quantization.scheme"),
        "ranks": ranks_of(record.plan.get("modules", [])),
        "learning_rate": setting(record, "train.learning_rate"),
        "trainable_parameters": record.plan.get("trainable_parameters"),
        "trainable_percent": record.plan.get("trainable_percent"),
        EVAL_LOSS.name: record.metric(EVAL_LOSS.name),
        "base_eval_loss": record.metrics.get(EVAL_LOSS.name, {}).get("base"),
        "train_loss": record.metric("train_loss"),
        "tokens_per_second": record.timing.get("tokens_per_second"),
        "total_seconds": record.timing.get("total_seconds"),
        "peak_bytes": record.memory.get("peak_bytes"),
        "fingerprint": record.fingerprint.get("hash"),
        "started": record.started,
        "finished": record.finished,
        "error": record.error,
    }


def ranks_of(modules: list[dict[str, Any]]) -> str:
    """The ranks that occur, highest first: 8/4."""
    return "/".join(str(rank) for rank in sorted({module.get("rank") or 0 for module in modules} - {0}, reverse=True))


def column_named(key: str, columns: Sequence[Column]) -> Column:
    """The column that a user means by its title or its field.

    Raises:
        ConfigError: when there is none.
    """
    for column in columns:
        if _bare(key) in (_bare(column.title), _bare(column.field)):
            return column
    titles = ", ".join(column.title for column in columns)
    raise ConfigError(f"--sort={key}", f"there is no column '{key}'.", f"There are: {titles}.")


def _bare(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ")


def sort_rows(rows: Sequence[Row], column: Column) -> list[Row]:
    """The rows by one column, lowest first; rows without a value come last, ties keep their order."""

    def order(row: Row) -> tuple[bool, Any]:
        value = row[column.field]
        if value in (None, "") or (isinstance(value, float) and not math.isfinite(value)):
            return True, 0
        if column.field == "ranks":
            return False, [int(rank) for rank in value.split("/")]
        return False, value

    return sorted(rows, key=order)


def table_of(rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    """The rows as a table; `-` where there is no value."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left")
    for row in rows:
        # Text, since a value from a user's file may look like rich's markup
        table.add_row(*(Text(_cell(column, row)) for column in columns))
    return table


def _cell(column: Column, row: Row) -> str:
    value = row[column.field]
    text = "-" if value is None else column.form(value)
    if column is STATUS and row["error"]:
        text += f": {str(row['error']).splitlines()[0][:60]}"
    return text


def write_csv(rows: Sequence[Row], file: str) -> None:
    """Every field of the rows as CSV, with a line of names; `-` is stdout.

    Raises:
        RunError: when the file cannot be written.
    """
    if file == "-":
        _csv(rows, sys.stdout)
        return
    try:
        with Path(os.path.expanduser(file)).open("w", encoding="utf-8", newline="") as out:
            _csv(rows, out)
    except OSError as error:
        raise RunError(file, f"cannot be written: {error.strerror}.", "Choose a place: --csv FILE") from error


def csv_text(rows: Sequence[Row]) -> str:
    """The same as a text."""
    out = io.StringIO()
    _csv(rows, out)
    return out.getvalue()


def _csv(rows: Sequence[Row], out: TextIO) -> None:
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _csv_value(value) for key, value in row.items()} for row in rows)


def _csv_value(value: Any) -> Any:
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else value
