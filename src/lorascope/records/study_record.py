"""The study record: arms, tasks, seeds and the names of all runs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lorascope.errors import RunError
from lorascope.records.record import FILE as RECORD
from lorascope.records.record import RunRecord, Status, read_record, write_text

FILE = "study.json"
SCHEMA_VERSION = 1
FINAL, PILOT = "final", "pilot"
FINITE = {"allow_inf_nan": False}  # how pydantic reads numbers


@dataclass(kw_only=True)
class Arm:
    """A strategy under comparison."""

    __pydantic_config__ = FINITE
    name: str
    words: str  # the overrides that make it
    views: list[str]  # the comparisons it is in: matched budget, same rank; often both
    ranks: str = ""  # 8/4
    parameters: int | None = None


@dataclass(kw_only=True)
class Task:
    """What the arms are compared on."""

    __pydantic_config__ = FINITE
    name: str
    words: str
    metric: str  # decides the verdict
    better: str  # higher | lower
    unit: str
    margin: float  # differences smaller than this do not matter; in the metric's unit, set in advance


@dataclass(kw_only=True)
class StudyRun:
    """One run of the study; its result is in its own record."""

    __pydantic_config__ = FINITE
    name: str  # of its folder, beside the study's file
    stage: str  # pilot | final
    task: str
    arm: str
    seed: int
    rate: float
    rung: int | None = None  # of the pilot: 0 is the shortest
    steps: float = 1.0  # the pilot's share of a complete training


@dataclass(kw_only=True)
class Study:
    """All that is planned, and the rates that the pilot chose. Later versions only add fields."""

    __pydantic_config__ = FINITE
    name: str
    title: str
    command: str
    started: str  # ISO 8601, UTC
    seeds: list[int]
    reference: str  # the arm that the others are compared with
    level: float = 0.05  # false verdicts, at most
    views: list[str] = field(default_factory=lambda: ["as given"])
    arms: list[Arm] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    runs: list[StudyRun] = field(default_factory=list)
    rates: dict[str, dict[str, float]] = field(default_factory=dict)  # task -> arm -> the rate its final runs have
    notes: list[str] = field(default_factory=list)  # what a reader must know: an edge that could not be passed, …
    finished: str | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level must be between 0 and 1 (got {self.level})")


Values = dict[str, dict[int, float]]  # arm -> seed -> a metric's value


def write_study(study: Study, folder: Path) -> None:
    """Replace `study.json` in one step.

    Raises:
        RunError: when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / FILE, json.dumps(dataclasses.asdict(study), indent=1) + "\n")
    except OSError as error:
        raise RunError(str(folder), f"the study cannot be written: {error.strerror}.", "Free or unlock it.") from error


def read_study(folder: Path) -> Study:
    """The study in a folder.

    Raises:
        RunError: when it is missing, damaged, or of a later version of lorascope.
    """
    from lorascope.records import record_schema  # pydantic takes a while to import

    path, again = folder / FILE, "Run the study's command again"
    with record_schema.damage_reported(path, f"{again}.", f"{again}: it is written anew."):
        return record_schema.check(Study, record_schema.read_object(path, SCHEMA_VERSION))


def records_of(study: Study, folder: Path) -> dict[str, RunRecord]:
    """The records of its runs, by name, without those that are missing or damaged."""
    found = {}
    for name in dict.fromkeys(run.name for run in study.runs):
        with suppress(RunError):
            if os.path.isfile(folder / name / RECORD):
                found[name] = read_record(folder / name)
    return found


def values_of(study: Study, records: Mapping[str, RunRecord], task: str, metric: str) -> Values:
    """A metric of the final runs that are done and have a finite one: arm -> seed -> value."""
    values: Values = {arm.name: {} for arm in study.arms}
    for run in study.runs:
        record = records.get(run.name)
        if run.stage == FINAL and run.task == task and record and record.status is Status.done:
            value = record.metric(metric)
            if value is not None and math.isfinite(value):
                values[run.arm][run.seed] = value
    return values
