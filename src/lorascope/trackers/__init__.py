"""Trackers of a run, none of which can stop it."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lorascope.config.schema import LoggerConfig
from lorascope.errors import ConfigError
from lorascope.records.environment import redact
from lorascope.records.record import RunRecord, Status
from lorascope.records.store import status_of
from lorascope.trackers.local import History, TensorBoard, Trackio
from lorascope.trackers.wandb import Wandb


class Tracker(Protocol):
    """Receives each step's values and the end of a run, and decides nothing about it.

    A tracker may also have a `note`, a line that says where to look, and a `rewind(step)`, called before a run is
    resumed from this step.
    """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values of one step."""

    def finish(self, record: RunRecord) -> None:
        """The run has ended with the status of its record."""


class Trackers:
    """All of a run's trackers as one; a failure is warned of once and never stops the run."""

    def __init__(self, trackers: Sequence[Tracker], warn: Callable[[str], None]) -> None:
        self.trackers = list(trackers)
        self.warn = warn

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass the values of one step to each."""
        self._call("log", step, values)

    def rewind(self, step: int) -> None:
        """Prepare each for a run that resumes after this step and logs later steps again."""
        self._call("rewind", step)

    def finish(self, record: RunRecord) -> None:
        """Pass the end to each, with the status that an error now being raised gives the run."""
        error = sys.exception()
        if error is not None and record.status is Status.running:
            record = dataclasses.replace(record, status=status_of(error))
        self._call("finish", record)

    @property
    def notes(self) -> Iterator[str]:
        """Where the run can be seen, a line for each tracker that did not fail."""
        return (note for tracker in self.trackers if (note := getattr(tracker, "note", "")))

    def _call(self, name: str, *values: Any) -> None:
        for tracker in list(self.trackers):
            try:
                if method := getattr(tracker, name, None):
                    method(*values)
            except Exception as error:
                self.trackers.remove(tracker)
                kind = type(tracker).__name__
                self.warn(f"{kind} failed ({redact(str(error))}) and is left out; the local record goes on.")


# logger=NAME -> the tracker; NAME is also the name of its setting and of its package
CHOICES: dict[str, Callable[[RunRecord, Path, Mapping[str, str]], Tracker]] = {
    "wandb": Wandb,
    "tensorboard": TensorBoard,
    "trackio": Trackio,
}


def enabled(logger: LoggerConfig) -> list[str]:
    """The names of the trackers that are enabled."""
    return [name for name in CHOICES if getattr(logger, name).enabled]


def check_installed(logger: LoggerConfig) -> None:
    """Refuse a tracker whose package is missing, before anything is loaded.

    Raises:
        ConfigError: for the first of them.
    """
    for name in enabled(logger):
        if importlib.util.find_spec(name) is None:
            remedy = "Run: pip install 'lorascope[trackers]', or take logger=none"
            raise ConfigError(f"logger={name}", f"the package {name} is not installed.", remedy)


def open_trackers(
    logger: LoggerConfig, record: RunRecord, folder: Path, metrics: Mapping[str, str], warn: Callable[[str], None]
) -> Trackers:
    """The history and every tracker that is enabled; one that cannot start is warned of and left out.

    Args:
        record: the run's, with its plan.
        metrics: what the run is judged by: a name, and whether "lower" or "higher" is better.
    """
    trackers: list[Tracker] = [History(folder)]
    for name in enabled(logger):
        try:
            trackers.append(CHOICES[name](record, folder, metrics))
        except Exception as error:
            warn(f"{CHOICES[name].__name__} could not start ({redact(str(error))}); the local record goes on.")
    return Trackers(trackers, warn)
