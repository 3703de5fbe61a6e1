"""What a tracker is, and all of a run's trackers as one that can never stop it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from lorascope.records.record import RunRecord, Status
from lorascope.records.redact import redact
from lorascope.records.store import status_of


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
