"""What a study cost: records come in; seconds, speed and memory of each arm, and the pilot's share, go out."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lorascope.records.record import RunRecord, Status, moment
from lorascope.studies.study import FINAL, PILOT, Study


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
