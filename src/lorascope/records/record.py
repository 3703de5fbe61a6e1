"""The run record: what a run was, cost and achieved, as one JSON file that is whole or not there."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from lorascope.errors import RunError
from lorascope.records.kinds import check_kinds

SCHEMA_VERSION = 1
FILE = "run.json"


class Status(StrEnum):
    """How far a run came."""

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
    sessions: list[dict[str, Any]] = field(default_factory=list)  # when it was at work; from_step where it went on
    schema_version: int = SCHEMA_VERSION

    def metric(self, name: str) -> float | None:
        """A metric's value after training; None where it was not measured."""
        value = self.metrics.get(name, {}).get("value")
        return None if value is None else float(value)


def write_record(record: RunRecord, folder: Path) -> None:
    """Write `run.json`, replacing the one before in one step.

    Raises:
        RunError: when the folder cannot be written.
    """
    text = json.dumps(dataclasses.asdict(record), indent=1)
    aside = folder / f".{FILE}.{os.getpid()}"
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(folder / FILE)
    except OSError as error:
        raise RunError(str(folder), f"the record cannot be written: {error.strerror}.", "Free or unlock it.") from error


def read_record(folder: Path) -> RunRecord:
    """The record in a run's folder.

    Raises:
        RunError: when it is missing, damaged, or of a later version of lorascope.
    """
    path = folder / FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = int(raw["schema_version"])
        if version > SCHEMA_VERSION:
            raise RunError(str(path), f"has schema version {version}.", f"This lorascope reads up to {SCHEMA_VERSION}.")
        known = {field.name for field in dataclasses.fields(RunRecord)}
        record = RunRecord(**{key: value for key, value in raw.items() if key in known})
        record.status = Status(record.status)
        check_kinds(vars(record))
        json.dumps(raw, ensure_ascii=False).encode("utf-8")  # half a character, which JSON can write, cannot be shown
    except OSError as error:
        raise RunError(str(path), f"cannot be read: {error.strerror}.", "Repeat the run.") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        what = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
        remedy = "Remove it or repeat the run with overwrite=true."
        raise RunError(str(path), f"is damaged: {what.rstrip('.')}.", remedy) from error
    return record
