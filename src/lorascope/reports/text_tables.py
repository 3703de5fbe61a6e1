"""Tables of runs for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape

from lorascope.formats import duration
from lorascope.records.record import EVAL_LOSS, RunRecord, moment
from lorascope.reports.run_table import (
    CONTEXT,
    LOSS,
    RUN_COLUMNS,
    SEED,
    Column,
    Row,
    flat,
    metric_columns,
    rows_of,
    table_of,
)
from lorascope.reports.seed_groups import DIFFERS, GROUP_COLUMNS


def show_runs(out: Console, rows: Sequence[Row], records: Sequence[RunRecord]) -> None:
    """Print a line for each run, and a warning where runs cannot be compared."""
    _show(out, count(len(rows), "run"), rows, with_metrics(RUN_COLUMNS, rows), (*CONTEXT, SEED))
    _warn_of_differences(out, records)
    seeds = {row["seed"] for row in rows}
    if len(seeds) < 5 and len({row["target"] for row in rows}) > 1:
        out.print(f"{count(len(seeds), 'seed')}, one learning rate for all arms: a first look, not a verdict.")


def show_groups(out: Console, rows: Sequence[Row], records: Sequence[RunRecord]) -> None:
    """Print a line for each config apart from the seed, and what weakens their comparison."""
    columns = with_metrics(GROUP_COLUMNS, rows)
    columns = [column for column in columns if column.field != "not_done" or any(row["not_done"] for row in rows)]
    if any(row["differs"] for row in rows):
        columns.append(DIFFERS)
    _show(out, f"{count(len(rows), 'arm')} from {count(len(records), 'run')}", rows, columns, CONTEXT)
    out.print("eval loss: mean over seeds; sd: standard deviation over seeds (n - 1), which needs two.")
    _warn_of_differences(out, records)
    if len({tuple(row["seeds"]) for row in rows if row["n"]}) > 1:
        out.print("[yellow]note[/]  the arms have different seeds, so their means are not over the same runs of luck.")


def with_metrics(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """The columns, with one for each metric behind the eval loss."""
    place = [column.field for column in columns].index("base_eval_loss") + 1
    return [*columns[:place], *metric_columns(rows), *columns[place:]]


def _show(out: Console, head: str, rows: Sequence[Row], columns: Sequence[Column], shareable: Sequence[Column]) -> None:
    """What all rows share goes into the heading, what differs into columns."""
    shared = [column for column in shareable if len({row[column.field] for row in rows}) == 1]
    words = ", ".join(f"{column.title} {escape(str(rows[0][column.field]))}" for column in shared)
    out.print(f"[bold]{head}[/]   {words}")
    out.print(table_of(rows, [column for column in columns if column not in shared]))


def _warn_of_differences(out: Console, records: Sequence[RunRecord]) -> None:
    fingerprints = {record.fingerprint["hash"] for record in records if record.fingerprint.get("hash")}
    if len(fingerprints) > 1:
        out.print(
            f"[yellow]note[/]  {len(fingerprints)} different fingerprints: these runs differ in data, base, number "
            "format or kernels, so their losses are not comparable as they stand."
        )
    if mixed := differing_versions(records):
        out.print(f"[yellow]note[/]  versions differ among these runs: {escape('; '.join(mixed))}")


def differing_versions(records: Sequence[RunRecord]) -> list[str]:
    """The packages of which the runs had more than one version, each with them."""
    found: dict[str, set[str]] = {}
    for record in records:
        for package, version in flat(record.environment.get("packages", {})).items():
            found.setdefault(package, set()).add(str(version))
    return [f"{package} {', '.join(sorted(known))}" for package, known in found.items() if len(known) > 1]


def count(number: int, noun: str) -> str:
    """A number of things: 1 run, 2 runs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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
