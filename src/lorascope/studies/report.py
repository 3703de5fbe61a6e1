"""The tables of finished runs, by run or over seeds: rows come in, lines go out. Never loads torch."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from lorascope.records.record import RunRecord
from lorascope.studies.groups import DIFFERS, GROUP_COLUMNS
from lorascope.studies.rows import CONTEXT, RUN_COLUMNS, SEED, Column, Row, metric_columns, table_of
from lorascope.studies.settings import flat


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
