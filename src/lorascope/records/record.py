"""The run record: one JSON file with a run's config, plan, results and environment."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from lorascope.errors import RunError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which replaces this one in one step when the block ends without an error."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step; half a surrogate pair is written as its number."""
    with replacing(path) as aside, aside.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        file.write(text)


@dataclass(frozen=True)
class Metric:
    """A number that a run is judged by."""

    name: str
    better: Literal["lower", "higher"]
    unit: str

    def entry(self, value: float, base: float | None) -> dict[str, Any]:
        """The metric's entry in a record, with the base model's value."""
        return {"value": value, "base": base, "unit": self.unit, "better": self.better}


EVAL_LOSS = Metric("eval_loss", better="lower", unit="nats/token")
BEST_LOSS = Metric("best_eval_loss", better="lower", unit="nats/token")  # of the checkpoints that were kept
SAMPLE = "sample/"  # in histories, before the name of a metric that was measured on a sample while training
TRAIN_LOSS = Metric("train_loss", better="lower", unit="nats/token")


SCHEMA_VERSION = 1
FILE = "run.json"
MODULE_COLUMNS = ("name", "layer", "role", "rank", "alpha", "scale", "parameters")  # of `plan["modules"]`


class Status(StrEnum):
    """The state of a run."""

    running = "running"
    done = "done"
    failed = "failed"
    preempted = "preempted"
    oom = "oom"


@dataclass(kw_only=True)
class RunRecord:
    """What is known of one run. Later versions only add fields."""

    run_id: str
    run_hash: str
    name: str
    status: Status
    config: dict[str, Any]
    started: str  # ISO 8601, UTC
    finished: str | None = None
    error: str | None = None
    plan: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)  # seconds, and tokens per second
    memory: dict[str, Any] = field(default_factory=dict)  # bytes
    data: dict[str, Any] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what a reader of the result must know
    sessions: list[dict[str, Any]] = field(default_factory=list)  # when it was at work; from_step where it went on
    schema_version: int = SCHEMA_VERSION

    def metric(self, name: str) -> float | None:
        """A metric's value after training; None where it was not measured."""
        value = self.metrics.get(name, {}).get("value")
        return None if value is None else float(value)

    def plan_totals(self) -> dict[str, Any]:
        """The plan without its list of modules."""
        return {key: value for key, value in self.plan.items() if key != "modules"}


def write_record(record: RunRecord, folder: Path) -> None:
    """Replace `run.json` in one step.

    Raises:
        RunError: when the folder cannot be written.
    """
    text = json.dumps(dataclasses.asdict(record), indent=1)
    try:
        write_text(folder / FILE, text + "\n")
    except OSError as error:
        raise RunError(str(folder), f"the record cannot be written: {error.strerror}.", "Free or unlock it.") from error


def read_record(folder: Path) -> RunRecord:
    """The record in a run's folder.

    Raises:
        RunError: when it is missing, damaged, or of a later version of lorascope.
    """
    from lorascope.records import record_schema  # pydantic takes a while to import

    path = folder / FILE
    with record_schema.damage_reported(path, "Repeat the run.", "Remove it or repeat the run with overwrite=true."):
        raw = record_schema.read_object(path, SCHEMA_VERSION)
        record_schema.check(record_schema.Record, raw)
        known = {field.name for field in dataclasses.fields(RunRecord)}
        record = RunRecord(**{key: value for key, value in raw.items() if key in known})
        record.status = Status(record.status)
    return record


def now() -> str:
    """The time as records hold it: ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def moment(text: object) -> float:
    """Seconds since 1970 of an ISO 8601 time, UTC unless it has a zone; 0 for anything else."""
    try:
        found = datetime.fromisoformat(str(text))
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0
