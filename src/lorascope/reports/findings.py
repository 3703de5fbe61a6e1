"""What a study found and what it cost."""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorascope.errors import RunError
from lorascope.formats import counted
from lorascope.records.record import RunRecord, Status, moment
from lorascope.records.store import PREDICTIONS
from lorascope.records.study_record import FILE, FINAL, PILOT, Study, read_study, records_of
from lorascope.reports.run_table import Row, rows_of, setting
from lorascope.reports.seed_groups import differing_versions
from lorascope.reports.standings import TaskComparison, comparisons
from lorascope.stats.verdicts import FEWEST

ADAPTED, MAIN = "adapter", "eval"  # stage and set, as `evaluation` writes them


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of an arm's final runs on one task that are done: means over them, and the highest of the memory."""

    task: str
    arm: str
    runs: int
    time_seconds: float | None
    time_tokens_per_second: float | None
    memory_peak_bytes: int | None
    memory_predicted_bytes: int | None


def costs(study: Study, records: Mapping[str, RunRecord]) -> list[Cost]:
    """A line for each task and arm."""
    return [_cost(study, records, task.name, arm.name) for task in study.tasks for arm in study.arms]


def _cost(study: Study, records: Mapping[str, RunRecord], task: str, arm: str) -> Cost:
    runs = [run for run in study.runs if (run.stage, run.task, run.arm) == (FINAL, task, arm)]
    done = [records[run.name] for run in runs if run.name in records and records[run.name].status is Status.done]
    return Cost(
        task=task,
        arm=arm,
        runs=len(done),
        time_seconds=_mean(seconds(record) for record in done),
        time_tokens_per_second=_mean(record.timing.get("tokens_per_second") for record in done),
        memory_peak_bytes=_most(record.memory.get("peak_bytes") for record in done),
        memory_predicted_bytes=_most(record.memory.get("predicted_bytes") for record in done),
    )


def stages(study: Study, records: Mapping[str, RunRecord]) -> dict[str, float]:
    """Seconds of all runs of the pilot and of the final ones, those that failed among them."""
    found = {PILOT: 0.0, FINAL: 0.0}
    for run in study.runs:
        if run.name in records:
            found[run.stage] = found.get(run.stage, 0.0) + (seconds(records[run.name]) or 0.0)
    return found


def seconds(record: RunRecord) -> float | None:
    """How long a run took, over all its sessions; a session that was killed could not say when."""
    if len(record.sessions) > 1:
        spans = [moment(one.get("ended")) - moment(one.get("started")) for one in record.sessions if one.get("ended")]
        return sum(spans) if spans else None
    return record.timing.get("total_seconds")


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None


def _most(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


# a run's fields that another machine, or another day, would have given other values
PASSING = {
    "tokens_per_second": "time_tokens_per_second",
    "total_seconds": "time_total_seconds",
    "peak_bytes": "memory_peak_bytes",
    "started": "time_started",
    "finished": "time_finished",
}


@dataclass(frozen=True)
class Findings:
    """All that a report shows."""

    folder: Path
    study: Study
    records: Mapping[str, RunRecord]
    comparisons: Sequence[TaskComparison]
    costs: Sequence[Cost]

    @property
    def model(self) -> str:
        """The name of the base, or of all of them."""
        return ", ".join(sorted({str(setting(record, "model.name")) for record in self.records.values()})) or "-"

    @property
    def notes(self) -> list[str]:
        """What weakens the verdicts."""
        seeds, versions = len(self.study.seeds), differing_versions(list(self.records.values()))
        found = list(self.study.notes)
        if seeds < FEWEST:
            found.append(f"{counted(seeds, 'seed')}: a first look; a verdict needs {FEWEST}.")
        if versions:
            found.append(f"versions differ among these runs: {'; '.join(versions)}")
        return found


def find(
    folder: Path, *, mixed: bool = False, read: Callable[[Study, Path], Mapping[str, RunRecord]] = records_of
) -> Findings:  # fmt: skip
    """Read and compare.

    Args:
        folder: the study's.
        mixed: whether runs of differing fingerprints may be compared.
        read: how its records are read: who asks again and again keeps those that have not changed.

    Raises:
        RunError: when there is no study, or its file cannot be read.
    """
    study = read_study(folder)
    _check(study, folder)
    records = read(study, folder)
    return Findings(folder, study, records, comparisons(study, records, mixed=mixed), costs(study, records))


def _check(study: Study, folder: Path) -> None:
    """Refuse a study whose runs name what it does not have."""
    arms, tasks = {arm.name for arm in study.arms}, {task.name for task in study.tasks}
    unknown = [f"arm '{run.arm}'" for run in study.runs if run.arm not in arms]
    unknown += [f"task '{run.task}'" for run in study.runs if run.task not in tasks]
    unknown += [f"reference '{study.reference}'"] if study.reference not in arms else []
    if unknown:
        place, remedy = str(folder / FILE), "Run the study's command again: it is written anew."
        raise RunError(place, f"is damaged: it has no {unknown[0]}, which it names.", remedy)


def result_rows(found: Findings) -> list[Row]:
    """A row for each arm, task and view; what depends on the machine is named time_… and memory_…."""
    spent = {(one.task, one.arm): one for one in found.costs}
    return [
        dataclasses.asdict(line) | _passing(spent[line.task, line.arm])
        for one in found.comparisons
        for line in one.lines
    ]


def _passing(cost: Cost) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(cost).items() if key.startswith(("time_", "memory_"))}


def run_rows(found: Findings) -> list[Row]:
    """A row for each run that is planned, with what its record tells, where there is one."""
    records = [record for name, record in found.records.items()]
    told = {row["name"]: row for row in rows_of(records)}
    fields = list(next(iter(told.values()), {}))
    rows = []
    for run in found.study.runs:
        row = {key: told.get(run.name, {}).get(key) for key in fields}
        row = {PASSING.get(key, key): value for key, value in row.items()}
        plan = dataclasses.asdict(run)
        rows.append(plan | {key: value for key, value in row.items() if key not in plan})
    return rows


def as_dict(found: Findings) -> dict[str, Any]:
    """The whole of it, for report.json."""
    study = dataclasses.asdict(found.study)
    spent = stages(found.study, found.records)
    return {
        "schema_version": 1,
        "study": {key: value for key, value in study.items() if key not in ("runs", "started", "finished")},
        "notes": found.notes,
        "results": [
            {
                "view": one.view,
                "task": one.task.name,
                "notes": one.notes,
                "arms": list(map(dataclasses.asdict, one.lines)),
            }
            for one in found.comparisons
        ],
        "cost": {
            "arms": [dataclasses.asdict(one) for one in found.costs],
            "time_pilot_seconds": spent[PILOT],
            "time_total_seconds": sum(spent.values()),
        },
        "runs": run_rows(found),
    }


def is_study(folder: str | Path) -> bool:
    """Whether a study's file lies in the folder."""
    return os.path.isfile(Path(os.path.expanduser(folder)) / FILE)


def item_scores(folder: Path, metric: str, value: float) -> list[float] | None:
    """The adapted model's score of every item, in the set's order; None where there is none to be had.

    Args:
        folder: of a run.
        metric: `METRIC` of the eval half, or `METRIC/SET`.
        value: the metric's in the run's record. Where the items' mean is not that, the metric is not a mean of items
            (macro-F1), and their scores would describe another one.
    """
    import pyarrow
    import pyarrow.parquet

    column, _, name = metric.partition("/")
    wanted = [("stage", "==", ADAPTED), ("set", "==", name or MAIN)]
    try:
        file = folder / PREDICTIONS[0]
        rows = pyarrow.parquet.read_table(file, columns=["item", column], filters=wanted).sort_by("item")
        scores = [math.nan if score is None else float(score) for score in rows[column].to_pylist()]
    except (OSError, KeyError, TypeError, ValueError, pyarrow.ArrowException):
        return None
    mean = sum(scores) / len(scores) if scores else math.nan
    return scores if math.isclose(mean, value, rel_tol=1e-6, abs_tol=1e-9) else None
