"""A study's verdicts as tables for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorascope.records.study_record import Study
from lorascope.reports.findings import Findings
from lorascope.reports.standings import LOSS, Line, TaskComparison
from lorascope.reports.text_tables import count

NAME = 20  # letters of an arm's name; longer ones are cut off
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
    return f"{tasks}, {found.model}, {count(len(study.seeds), 'seed')} each, {rate}"


def title(study: Study, one: TaskComparison) -> str:
    """The task, what decides it, and the view where there are several."""
    view = f", {one.view}" if len(study.views) > 1 else ""
    margin = one.quantity.digits(one.task.margin)
    decides = f"{one.task.metric}, {one.task.unit}, {one.task.better} is better"
    return f"{one.task.name}{view}   {decides}; margin {margin} {one.quantity.of_differences}".rstrip()


def _table(study: Study, one: TaskComparison) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("arm", no_wrap=True, max_width=NAME)
    table.add_column("rank", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    for name in (one.task.metric, *([] if one.task.metric == LOSS else ["eval loss"])):
        table.add_column(Text(name), justify="right", no_wrap=True)
    # 1 - level would be the tests'; the intervals of differences have that level too
    reference = study.reference if len(study.reference) <= NAME else f"{study.reference[: NAME - 1]}…"
    table.add_column(Text(f"to {reference} ({100 * (1 - study.level):g} %)"), no_wrap=True)
    table.add_column("verdict", min_width=14)
    for line in one.lines:
        table.add_row(*_cells(one, line))
    return table


def _cells(one: TaskComparison, line: Line) -> list[Text]:
    shown = [line.arm, line.ranks or "-", "-" if line.parameters is None else f"{line.parameters:,}"]
    shown.append(one.quantity.value(line.mean, line.half))
    if one.task.metric != LOSS:
        shown.append(one.loss_quantity.value(line.eval_loss, line.eval_loss_half))
    shown.append(one.quantity.difference(line.difference, line.difference_low, line.difference_high))
    return [*map(Text, shown), Text(line.words, style=STYLES.get(line.verdict, ""))]


def _note(out: Console, note: str) -> None:
    out.print(Text.assemble(("note", "yellow"), f"  {note}"), soft_wrap=True)
