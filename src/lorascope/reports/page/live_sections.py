"""What a served page shows besides the written one: where each run is, and of one run its log and its answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from lorascope.formats import NONE, counted
from lorascope.records.record import RunRecord
from lorascope.records.store import CONFIG, HISTORY, PREDICTIONS
from lorascope.records.study_record import Study, StudyRun
from lorascope.reports.findings import ADAPTED, MAIN
from lorascope.reports.page import charts, tables
from lorascope.reports.page.sections import Figure, Section, SectionPart
from lorascope.reports.page.tables import Table, TableCell, arm_cell, figure
from lorascope.reports.page.values import Looks
from lorascope.reports.seed_groups import EVAL, TRAIN, curve_of
from lorascope.trackers.local import read_history

if TYPE_CHECKING:
    import pyarrow

BASE = "base"  # the stage before training, as `evaluation` writes it
STATES = {"done": "good", "running": "same", "queued": "open"}  # badges; what is not here went wrong
LINES, ITEMS, MOST, SHOWN = 100, 25, 12, 600  # of a log's page, of answers'; open rows of runs; characters of a prompt
FIELDS = ("stage", "set", "item", "prompt", "gold", "accepted", "group", "choice", "scores", "text", "nats", "tokens")


@dataclass(frozen=True)
class RunNow:
    """A run as it is at this moment: its state, and what its line says of it."""

    run: StudyRun
    state: str
    words: str


def now(rows: Sequence[RunNow], more: int, total: str, link: Callable[[str], str]) -> Section:
    """Where the runs are.

    Args:
        rows: those that are shown.
        more: how many others there are.
        total: the study in a line.
        link: to a run's page.
    """
    made = []
    for one in rows:
        run = one.run
        named = TableCell(run.name, href="" if one.state == "queued" else link(run.name))
        state = TableCell(one.state, badge=STATES.get(one.state, "bad"))
        numbers = [figure(run.seed), figure(run.rate)]
        made.append([named, state, TableCell(run.task), arm_cell(run.arm), *numbers, TableCell(one.words)])
    table = Table("runs now", ["run", "state", "task", "arm", "seed", "rate", "progress"], made, (4, 5))
    others = f" Of {counted(more, 'more run')} the Environment tells." if more else ""
    return Section("now", "Now", "Now", f"{total}.{others}", [SectionPart(table=table)])


def run_sections(
    folder: Path, study: Study, one: RunNow, record: RunRecord | None, looks: Looks, query: Mapping[str, str]
) -> list[Section]:
    """A run's own page: what it is, how its loss fell, its log, its answers.

    Args:
        folder: the run's.
        study: of the run.
        one: the run as it is now.
        record: where there is one.
        looks: of the arms.
        query: which page of the log (`log`) and of the answers (`answers`) is asked for, and of which `set`.
    """
    rows = list(read_history(folder))
    made = [_about(study, one, record), _curves(one, rows, looks), log(rows, query), answers(folder, query)]
    return [section for section in made if section is not None]


def _about(study: Study, one: RunNow, record: RunRecord | None) -> Section:
    run = one.run
    task = next(task for task in study.tasks if task.name == run.task)
    told: list[tuple[str, object]] = [
        ("state", f"{one.state}   {one.words}".strip()), ("stage", run.stage), ("task", run.task), ("arm", run.arm),
        ("seed", run.seed), ("learning rate", f"{run.rate:g}"),
    ]  # fmt: skip
    if record:
        told += [("started", record.started), ("finished", record.finished or "not yet")]
        told += [(name, f"{entry.get('value')!r} {entry.get('unit') or ''}") for name, entry in record.metrics.items()]
    blocks = [SectionPart(f"Decided by {task.metric}", table=tables.pairs("run", told))]
    if record and record.error:
        blocks.append(SectionPart("Error", code=record.error))
    return Section("run", "Run", "Run", "", blocks)


def _curves(one: RunNow, rows: Sequence[Mapping[str, Any]], looks: Looks) -> Section | None:
    drawn = []
    for key, kind in ((TRAIN, "training loss"), (EVAL, "eval loss")):
        if found := curve_of(one.run.arm, rows, key):
            label = f"{one.run.name}: {kind} by step"
            drawn.append(Figure(kind, "nats/token", label, charts.learning(kind, [found], looks)))
    return Section("learning", "Learning", "Learning curve", "", [SectionPart(figures=drawn)]) if drawn else None


def at_work(folder: Path, rows: Sequence[RunNow], looks: Looks) -> Section | None:
    """The training loss of each run that is at work."""
    drawn = []
    for one in rows:
        if one.state == "running" and (
            found := curve_of(one.run.arm, list(read_history(folder / one.run.name)), TRAIN)
        ):
            label = f"{one.run.name}: training loss by step, so far"
            drawn.append(
                Figure(
                    one.run.name, "training loss (nats/token)", label, charts.learning("training loss", [found], looks)
                )
            )
    if not drawn:
        return None
    return Section(
        "work",
        "At work",
        "Learning now",
        "Runs at work; a point is a logged step.",
        [SectionPart(figures=drawn[:MOST])],
    )


def log(rows: Sequence[Mapping[str, Any]], query: Mapping[str, str]) -> Section:
    """history.jsonl, the last lines first."""
    often = Counter(key for row in rows for key in row)  # in every line: the step; then what most lines have
    heads = [key for key, _ in often.most_common()]
    shown, links = paged([*reversed(rows)], LINES, query, "log")
    cells = [[_value(row.get(key)) for key in heads] for row in shown]
    lead = f"{HISTORY}, {counted(len(rows), 'line')}, the last first." if rows else f"{HISTORY} has no line yet."
    part = SectionPart(table=Table("log", heads, cells, range(1, len(heads))), links=links) if rows else SectionPart()
    files = [(name, name) for name in (HISTORY, "run.json", CONFIG)]
    return Section("log", "Log", "Log", lead, [part, SectionPart(links=[("The whole files:", ""), *files])])


def _value(value: object) -> TableCell:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return TableCell(NONE if value is None else str(value))
    return (
        figure(value, "{:,}" if isinstance(value, int) else "{:.6g}") if math.isfinite(value) else TableCell(str(value))
    )


def paged(rows: Any, size: int, query: Mapping[str, str], name: str) -> tuple[Any, list[tuple[str, str]]]:
    """The rows of the page that is asked for, and links to the others: the first, the neighbours, the last."""
    last = max(math.ceil(len(rows) / size), 1)
    here = min(max(_whole(query.get(name)), 1), last)
    links = []
    for number in sorted({1, here - 1, here, here + 1, last} & set(range(1, last + 1))):
        place = "?" + urlencode({**query, name: number}) + f"#{name}"
        links.append((f"{number}" if number != last else f"{number} (last)", "" if number == here else place))
    return rows[(here - 1) * size : here * size], links if last > 1 else []


def _whole(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 10 else 1


def answers(folder: Path, query: Mapping[str, str]) -> Section | None:
    """Items of one set with what was wanted, what the base answered, and what the adapted model does; paged."""
    table = _kept(folder)
    if table is None:
        return None
    sets = list(dict.fromkeys(table["set"].to_pylist()))
    chosen = query.get("set") if query.get("set") in sets else MAIN if MAIN in sets else sets[0]
    before, after = (_of(table, stage, str(chosen)) for stage in (BASE, ADAPTED))
    shown, links = paged(after if len(after) else before, ITEMS, query, "answers")
    base = {row["item"]: row for row in before.to_pylist()} if len(after) else {}
    metrics = [name for name in table.column_names if name not in FIELDS]
    rows = shown.to_pylist()
    metrics = [name for name in metrics if any(row[name] is not None for row in rows)]
    heads = ["item", "prompt", "wanted", *(["base"] if base else []), "adapted" if len(after) else "base", *metrics]
    cells = [_item(row, base, metrics) for row in rows]
    others = [
        (name, "" if name == chosen else "?" + urlencode({**query, "set": name, "answers": 1}) + "#answers")
        for name in sets
    ]
    lead = f"{counted(len(after) or len(before), 'item')} of the set '{chosen}', as {PREDICTIONS[0]} has them."
    numbers = (0, *range(len(heads) - len(metrics), len(heads)))
    blocks = [
        SectionPart(links=others if len(sets) > 1 else ()),
        SectionPart(table=Table("answers", heads, cells, numbers), links=links),
    ]
    return Section("answers", "Answers", "Answers", lead, blocks)


def _kept(folder: Path) -> pyarrow.Table | None:
    """The answers of a run that is done, or the base's, which are there first."""
    import pyarrow
    import pyarrow.parquet

    for name in PREDICTIONS:
        try:
            table = pyarrow.parquet.read_table(folder / name)
        except (OSError, ValueError, pyarrow.ArrowException):
            continue
        if {"stage", "set", "item", "prompt", "gold"} <= set(table.column_names) and len(table):
            return table
    return None


def _of(table: pyarrow.Table, stage: str, name: str) -> pyarrow.Table:
    from pyarrow import compute

    return table.filter((compute.field("stage") == stage) & (compute.field("set") == name)).sort_by("item")


def _item(row: Mapping[str, Any], base: Mapping[int, Mapping[str, Any]], metrics: Sequence[str]) -> list[TableCell]:
    prompt = str(row["prompt"])
    prompt = prompt if len(prompt) <= SHOWN else f"… {prompt[-SHOWN:]}"
    texts = [prompt, str(row["gold"]), *([_said(base.get(row["item"]))] if base else []), _said(row)]
    return [
        figure(row["item"]),
        *(TableCell(text, prose=True) for text in texts),
        *(_value(row[name]) for name in metrics),
    ]


def _said(row: Mapping[str, Any] | None) -> str:
    """What was written, or the label that was the most likely."""
    return str((row.get("text") or row.get("choice") or NONE) if row else NONE)
