"""The page's tables: cells with what they show and what they are sorted by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lorascope.formats import NONE, megabytes
from lorascope.records.record import RunRecord
from lorascope.records.study_record import StudyRun
from lorascope.reports.findings import Cost, Findings
from lorascope.reports.run_table import flat
from lorascope.reports.standings import LOSS, Line, TaskComparison, first_line

BADGES = {"better": "good", "worse": "bad", "equivalent": "same"}
SHARED = (
    *("model", "revision", "quantization", "dtype", "attention", "device", "train_data", "eval_data", "hash"),
)  # fmt: skip


@dataclass(frozen=True)
class TableCell:
    """What a cell shows; `arm` puts the arm's mark before it, `badge` makes the text one of that kind."""

    text: str
    sort: float | None = None  # the exact number, where the text is one
    arm: str = ""
    badge: str = ""
    more: str = ""  # beside a badge
    href: str = ""
    prose: bool = False  # a text of several lines


@dataclass(frozen=True)
class Table:
    """Rows below their heads; without heads it cannot be sorted. `numbers` are aligned to the right."""

    label: str
    heads: Sequence[str]
    rows: Sequence[Sequence[TableCell]]
    numbers: Sequence[int] = ()


def minus(text: str) -> str:
    """With the sign that is as wide as the plus."""
    return text if text == NONE else text.replace("-", "−")


def arm_cell(arm: str) -> TableCell:
    """An arm's name behind its mark."""
    return TableCell(arm, arm=arm)


def figure(value: float | None, text: str = "{:g}") -> TableCell:
    """A number, or a dash where it is not known."""
    return TableCell(NONE) if value is None else TableCell(minus(text.format(value)), value)


def results(found: Findings, one: TaskComparison) -> Table:
    """All arms of a view on one task."""
    study, loss = found.study, [] if one.task.metric == LOSS else ["eval loss"]
    to = f"to {study.reference} ({100 * (1 - study.level):g} %)"
    heads = ["arm", one.task.metric, to, "verdict", *loss, "rank", "parameters", "rate", "seeds"]
    numbers = [1, *(index for index, name in enumerate(heads) if name in (*loss, "parameters", "rate", "seeds"))]
    rows = [_result(one, line, bool(loss)) for line in one.lines]
    return Table(f"{one.task.name}, {one.view}: results", heads, rows, numbers)


def _result(one: TaskComparison, line: Line, loss: bool) -> list[TableCell]:
    to = one.quantity.difference(line.difference, line.difference_low, line.difference_high)
    measured = TableCell(minus(one.loss_quantity.value(line.eval_loss, line.eval_loss_half)), line.eval_loss)
    more = line.words.removeprefix(line.verdict).strip(" ()")
    return [
        arm_cell(line.arm),
        TableCell(minus(one.quantity.value(line.mean, line.half)), line.mean),
        TableCell(minus(to), line.difference),
        TableCell(
            line.verdict,
            badge=BADGES.get(line.verdict, "open"),
            more="; ".join(filter(None, (more, line.reason))),
        ),
        *([measured] if loss else []),
        TableCell(line.ranks or NONE),
        figure(line.parameters, "{:,}"),
        figure(line.learning_rate),
        figure(line.n),
    ]


def costs(found: Findings) -> Table:
    """Time and memory of each arm on each task."""
    heads = ["arm", "task", "runs", "seconds a run", "tokens/s", "peak memory", "predicted", "predicted / peak"]
    return Table("time and memory", heads, [_cost(one) for one in found.costs if one.runs], range(2, len(heads)))


def _cost(one: Cost) -> list[TableCell]:
    peak, predicted = one.memory_peak_bytes, one.memory_predicted_bytes
    return [
        arm_cell(one.arm),
        TableCell(one.task),
        figure(one.runs),
        figure(one.time_seconds, "{:,.0f}"),
        figure(one.time_tokens_per_second, "{:,.0f}"),
        *(TableCell(NONE) if size is None else TableCell(megabytes(size), size) for size in (peak, predicted)),
        figure(predicted / peak if peak and predicted else None, "{:.2f}"),
    ]


def pairs(label: str, rows: Iterable[tuple[str, object]]) -> Table:
    """Names and their values."""
    return Table(label, (), [[TableCell(name), TableCell(str(value))] for name, value in rows])


def settings(found: Findings) -> Table:
    """What the study was asked to do."""
    study = found.study
    counted = Counter(run.stage for run in study.runs)
    return pairs(
        "study",
        [
            ("name", study.name),
            ("model", found.model),
            ("seeds", ", ".join(map(str, study.seeds))),
            ("reference", study.reference),
            ("level", f"{study.level:g}"),
            ("views", ", ".join(study.views)),
            ("runs", ", ".join(f"{times} {stage}" for stage, times in counted.items()) or "none"),
            ("started", study.started),
            ("finished", study.finished or "not yet"),
        ],
    )


def arms(found: Findings) -> Table:
    """The arms as they were asked for."""
    rows = [[arm_cell(arm.name), TableCell(arm.words), TableCell(", ".join(arm.views))] for arm in found.study.arms]
    return Table("arms", ["arm", "overrides", "views"], rows)


def tasks(found: Findings) -> Table:
    """The tasks, what decides them, and the margins."""
    rows = [
        [
            *map(TableCell, (task.name, task.words, task.metric, f"{task.better} is better")),
            TableCell(f"{task.margin:g} {task.unit}", task.margin),
        ]
        for task in found.study.tasks
    ]
    return Table("tasks", ["task", "overrides", "metric", "direction", "margin"], rows)


def runs(found: Findings, link: Callable[[str], str]) -> Table:
    """Every run that has a record, with a link to its folder."""
    units = {task.name: task.metric for task in found.study.tasks}
    heads = ["run", "stage", "task", "arm", "seed", "rate", "status", "deciding metric", "eval loss"]
    rows = []
    for run in found.study.runs:
        if record := found.records.get(run.name):
            measured = [figure(record.metric(name), "{:.6g}") for name in (units[run.task], LOSS)]
            named = [
                TableCell(run.name, href=link(run.name)),
                TableCell(run.stage),
                TableCell(run.task),
                arm_cell(run.arm),
            ]
            rows.append([*named, figure(run.seed), figure(run.rate), TableCell(str(record.status)), *measured])
    return Table("runs", heads, rows, (4, 5, 7, 8))


def not_done(found: Findings, link: Callable[[str], str]) -> Table:
    """Runs that are planned and not done, and why."""
    known = [(run, found.records.get(run.name)) for run in found.study.runs]
    rows = [_missing(run, record, link) for run, record in known if record is None or record.status != "done"]
    return Table("runs that are not done", ["run", "task", "arm", "seed", "status", "error"], rows, (3,))


def _missing(run: StudyRun, record: RunRecord | None, link: Callable[[str], str]) -> list[TableCell]:
    return [
        TableCell(run.name, href=link(run.name) if record else ""),
        TableCell(run.task),
        arm_cell(run.arm),
        figure(run.seed),
        TableCell(str(record.status) if record else "not run yet"),
        TableCell(first_line(record.error).strip(" ()") if record else ""),
    ]


def machine(records: Iterable[RunRecord]) -> Table:
    """Each part of the environments, with every value that it had."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for key, value in flat(record.environment).items():
            found.setdefault(key.removeprefix("packages."), {})[str(value)] = None
    return pairs("machine and versions", [(key, "; ".join(values)) for key, values in found.items()])


def fingerprints(found: Findings) -> Table:
    """What the runs of each task shared; more than one line where they did not."""
    rows: Counter[tuple[str, ...]] = Counter()
    for run in found.study.runs:
        if (record := found.records.get(run.name)) and record.fingerprint.get("hash"):
            rows[(run.task, *(str(record.fingerprint.get(key, "-")) for key in SHARED))] += 1
    heads = ["task", *(key.replace("_", " ") for key in SHARED[:-1]), "fingerprint", "runs"]
    return Table("fingerprints", heads, [[*map(TableCell, key), figure(times)] for key, times in rows.items()], (10,))
