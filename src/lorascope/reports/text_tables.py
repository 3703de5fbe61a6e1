"""Tables of runs, and of a study's verdicts, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lorascope.formats import counted, duration
from lorascope.records.record import EVAL_LOSS, RunRecord, moment
from lorascope.records.study_record import Study
from lorascope.reports.findings import Findings
from lorascope.reports.run_table import (
    CONTEXT,
    LOSS,
    RUN_COLUMNS,
    SEED,
    Column,
    Row,
    metric_columns,
    rows_of,
    table_of,
)
from lorascope.reports.seed_groups import DIFFERS, GROUP_COLUMNS, differing_versions
from lorascope.reports.standings import Line, TaskComparison


def show_runs(out: Console, rows: Sequence[Row], records: Sequence[RunRecord]) -> None:
    """Print a line for each run, and a warning where runs cannot be compared."""
    _show(out, counted(len(rows), "run"), rows, with_metrics(RUN_COLUMNS, rows), (*CONTEXT, SEED))
    _warn_of_differences(out, records)
    seeds = {row["seed"] for row in rows}
    if len(seeds) < 5 and len({row["target"] for row in rows}) > 1:
        out.print(f"{counted(len(seeds), 'seed')}, one learning rate for all arms: a first look, not a verdict.")


def show_groups(out: Console, rows: Sequence[Row], records: Sequence[RunRecord]) -> None:
    """Print a line for each config apart from the seed, and what weakens their comparison."""
    columns = with_metrics(GROUP_COLUMNS, rows)
    columns = [column for column in columns if column.field != "not_done" or any(row["not_done"] for row in rows)]
    if any(row["differs"] for row in rows):
        columns.append(DIFFERS)
    _show(out, f"{counted(len(rows), 'arm')} from {counted(len(records), 'run')}", rows, columns, CONTEXT)
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
    out.print(f"[bold]{counted(known, 'run')}[/]" if len(rows) == known else f"[bold]{len(rows)} of {known} runs[/]")
    if not rows:
        return
    table = table_of(rows, COLUMNS)
    wide = out.measure(table, options=out.options.update(width=10_000)).maximum
    if out.is_terminal and wide > out.width:
        table = table_of(rows, [column for column in COLUMNS if column not in IN_THE_NAME])
        wide = out.measure(table, options=out.options.update(width=10_000)).maximum
    table.width = max(wide, 1)
    out.print(table, width=max(wide, out.width))


ARM_WIDTH = 20  # letters of an arm's name; longer ones are cut off
STYLES = {"better": "green", "worse": "red", "no verdict": "yellow"}


def show_study(out: Console, found: Findings) -> None:
    """Print a heading, a table for each view and task, and what a reader must know."""
    study = found.study
    out.print(Text.assemble((study.name, "bold"), f" on {heading(found)}"), soft_wrap=True)
    for one in found.comparisons:
        out.print()
        out.print(Text(title(study, one), style="bold"), soft_wrap=True)
        out.print(_table(study, one))
        for line in one.lines:
            if line.reason:
                out.print(Text(f"  {line.arm}: {line.reason}"), soft_wrap=True)
        for note in one.notes:
            _note(out, note)
    if found.notes:
        out.print()
    for note in found.notes:
        _note(out, note)


def heading(found: Findings) -> str:
    """What was studied: airports, smollm2, 5 seeds each, rate tuned per arm."""
    study = found.study
    tasks = ", ".join(task.name for task in study.tasks)
    rate = "rate tuned per arm" if study.rates else "one learning rate for all arms"
    return f"{tasks}, {found.model}, {counted(len(study.seeds), 'seed')} each, {rate}"


def title(study: Study, one: TaskComparison) -> str:
    """The task, what decides it, and the view where there are several."""
    view = f", {one.view}" if len(study.views) > 1 else ""
    margin = one.quantity.digits(one.task.margin)
    decides = f"{one.task.metric}, {one.task.unit}, {one.task.better} is better"
    return f"{one.task.name}{view}   {decides}; margin {margin} {one.quantity.of_differences}".rstrip()


def _table(study: Study, one: TaskComparison) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("arm", no_wrap=True, max_width=ARM_WIDTH)
    table.add_column("rank", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    for name in (one.task.metric, *([] if one.task.metric == EVAL_LOSS.name else ["eval loss"])):
        table.add_column(Text(name), justify="right", no_wrap=True)
    # 1 - level would be the tests'; the intervals of differences have that level too
    reference = study.reference if len(study.reference) <= ARM_WIDTH else f"{study.reference[: ARM_WIDTH - 1]}…"
    table.add_column(Text(f"to {reference} ({100 * (1 - study.level):g} %)"), no_wrap=True)
    table.add_column("verdict", min_width=14)
    for line in one.lines:
        table.add_row(*_cells(one, line))
    return table


def _cells(one: TaskComparison, line: Line) -> list[Text]:
    shown = [line.arm, line.ranks or "-", "-" if line.parameters is None else f"{line.parameters:,}"]
    shown.append(one.quantity.value(line.mean, line.half))
    if one.task.metric != EVAL_LOSS.name:
        shown.append(one.loss_quantity.value(line.eval_loss, line.eval_loss_half))
    shown.append(one.quantity.difference(line.difference, line.difference_low, line.difference_high))
    return [*map(Text, shown), Text(line.words, style=STYLES.get(line.verdict, ""))]


def _note(out: Console, note: str) -> None:
    out.print(Text.assemble(("note", "yellow"), f"  {note}"), soft_wrap=True)
