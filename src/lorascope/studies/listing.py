"""What was run, newest first: records come in, a line for each goes out. Never loads torch."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console

from lorascope.records.metrics import EVAL_LOSS
from lorascope.records.moments import moment
from lorascope.records.record import RunRecord
from lorascope.studies.report import count
from lorascope.studies.rows import LOSS, SEED, Column, Row, rows_of, table_of
from lorascope.wording import duration

FIELDS = (
    "name", "run_id", "status", "target", "model", "dataset", "seed", EVAL_LOSS.name, "started", "finished",
    "total_seconds", "error",
)  # fmt: skip


def newest_first(records: Sequence[RunRecord]) -> list[Row]:
    """A short row for each run, the last one started first."""
    rows = sorted(rows_of(records), key=lambda row: moment(row["started"]), reverse=True)
    return [{field: row[field] for field in FIELDS} for row in rows]


def when(started: Any) -> str:
    """A record's time on this machine's clock, to the minute."""
    try:
        return datetime.fromtimestamp(moment(started)).strftime("%Y-%m-%d %H:%M") if moment(started) else "-"
    except (ValueError, OverflowError, OSError):  # beyond the years of a calendar
        return "-"


NAME = Column("name", "name")
# the name holds these as well: they are left out where the terminal is narrow
IN_THE_NAME = (Column("target", "target"), Column("model", "model"), Column("dataset", "dataset"), SEED)
COLUMNS = (
    NAME, Column("status", "status"), *IN_THE_NAME, LOSS,
    Column("started", "started", when), Column("took", "total_seconds", duration, right=True),
)  # fmt: skip


def show_list(out: Console, rows: Sequence[Row], known: int) -> None:
    """Print the lines; none of them is wrapped or cut."""
    out.print(f"[bold]{count(known, 'run')}[/]" if len(rows) == known else f"[bold]{len(rows)} of {known} runs[/]")
    if not rows:
        return
    table = table_of(rows, COLUMNS)
    wide = out.measure(table, options=out.options.update(width=10_000)).maximum
    if out.is_terminal and wide > out.width:
        table = table_of(rows, [column for column in COLUMNS if column not in IN_THE_NAME])
        wide = out.measure(table, options=out.options.update(width=10_000)).maximum
    table.width = max(wide, 1)
    out.print(table, width=max(wide, out.width))
