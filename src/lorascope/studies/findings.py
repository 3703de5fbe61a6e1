"""What a study found: its folder comes in; comparisons, costs and what a reader must know of them go out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorascope.errors import RunError
from lorascope.records.record import RunRecord
from lorascope.studies.cost import Cost, costs, stages
from lorascope.studies.report import count, differing_versions
from lorascope.studies.rows import Row, rows_of
from lorascope.studies.settings import setting
from lorascope.studies.standings import Comparison, comparisons
from lorascope.studies.study import FILE, PILOT, Study, read_study, records_of
from lorascope.studies.verdicts import FEWEST

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
    comparisons: Sequence[Comparison]
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
            found.append(f"{count(seeds, 'seed')}: a first look; a verdict needs {FEWEST}.")
        if versions:
            found.append(f"versions differ among these runs: {'; '.join(versions)}")
        return found


def find(folder: Path, *, mixed: bool = False) -> Findings:
    """Read and compare.

    Raises:
        RunError: when there is no study, or its file cannot be read.
    """
    study = read_study(folder)
    _check(study, folder)
    records = records_of(study, folder)
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
