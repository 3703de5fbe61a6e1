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
    """What a run tells: each step's values, and the end. A tracker decides nothing about the run.

    One that the user can look at has a `note` too: a line that says where. One that remembers what a cut run told has
    a `rewind(step)`: the run goes on from there.
    """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values of one step."""

    def finish(self, record: RunRecord) -> None:
        """The run has ended, as its record says."""


class Trackers:
    """All of a run's trackers as one; one that fails is told of once and never stops the run."""

    def __init__(self, trackers: Sequence[Tracker], warn: Callable[[str], None]) -> None:
        self.trackers = list(trackers)
        self.warn = warn

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values of one step, to each."""
        for tracker in list(self.trackers):
            self._tell(tracker, tracker.log, step, values)

    def rewind(self, step: int) -> None:
        """A run that was cut goes on after this step, to each that heeds it; later steps will be told again."""
        for tracker in list(self.trackers):
            if rewind := getattr(tracker, "rewind", None):
                self._tell(tracker, rewind, step)

    def finish(self, record: RunRecord) -> None:
        """The end, to each; called while an error passes by, the record says so already."""
        error = sys.exception()
        if error is not None and record.status is Status.running:
            record = dataclasses.replace(record, status=status_of(error))
        for tracker in list(self.trackers):
            self._tell(tracker, tracker.finish, record)

    @property
    def notes(self) -> Iterator[str]:
        """Where the run can be seen, a line for each tracker that heard it to its end."""
        for tracker in self.trackers:
            if note := getattr(tracker, "note", ""):
                yield note

    def _tell(self, tracker: Tracker, method: Callable[..., None], *words: Any) -> None:
        try:
            method(*words)
        except Exception as error:
            self.trackers.remove(tracker)
            self.warn(f"{type(tracker).__name__} stopped listening ({redact(str(error))}); the local record goes on.")


# logger=NAME -> the tracker; NAME is its setting's and its package's name too
CHOICES: dict[str, Callable[[RunRecord, Path, Mapping[str, str]], Tracker]] = {
    "wandb": Wandb,
    "tensorboard": TensorBoard,
    "trackio": Trackio,
}


def wanted(logger: LoggerConfig) -> list[str]:
    """The names of the trackers that are enabled."""
    return [name for name in CHOICES if getattr(logger, name).enabled]


def check_installed(logger: LoggerConfig) -> None:
    """Refuse a tracker whose package is missing: told before anything is loaded.

    Raises:
        ConfigError: for the first of them.
    """
    for name in wanted(logger):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"logger={name}",
                f"the package {name} is not installed.",
                "Run: pip install 'lorascope[trackers]', or take logger=none",
            )


def open_trackers(
    logger: LoggerConfig, record: RunRecord, folder: Path, metrics: Mapping[str, str], warn: Callable[[str], None]
) -> Trackers:
    """The history and every tracker that is enabled; one that cannot start is told of and left out.

    Args:
        logger: which are enabled.
        record: the run's, with its plan; its config is what trackers are told.
        folder: the run's own.
        metrics: what the run is judged by: a name, and whether "lower" or "higher" is better.
        warn: told of what did not work.
    """
    trackers: list[Tracker] = [History(folder)]
    for name in wanted(logger):
        try:
            trackers.append(CHOICES[name](record, folder, metrics))
        except Exception as error:
            warn(f"{CHOICES[name].__name__} could not start ({redact(str(error))}); the local record goes on.")
    return Trackers(trackers, warn)
