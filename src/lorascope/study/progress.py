"""The state of every run of a study, and the time that is left."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorascope.errors import RunError
from lorascope.records.record import EVAL_LOSS, RunRecord, Status, moment, read_record
from lorascope.records.record import FILE as RECORD
from lorascope.records.store import HISTORY
from lorascope.records.study_record import Study, StudyRun, read_study
from lorascope.reports.findings import seconds
from lorascope.reports.run_table import setting
from lorascope.trackers.local import read_history

QUEUED = "queued"  # beside the states of records
SILENT = 600.0  # seconds without a word, after which one may ask whether a run still lives


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A run as it is now; what is not known is None."""

    name: str
    state: str
    step: int | None = None
    steps: int | None = None  # of the whole training, as far as it can be told
    loss: float | None = None  # the eval loss of a run that is done, the latest training loss of one at work
    seconds: float | None = None  # it took
    left: float | None = None  # seconds
    silent: float | None = None  # seconds since it last wrote anything, where they are many
    error: str = ""


@dataclass(frozen=True)
class Progress:
    """A study as it is now."""

    name: str
    runs: Sequence[Seen]
    left: float | None  # seconds
    finished: bool


class Reader:
    """Reads a study's records, each again only when its file has changed: who watches should not slow the runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, tuple[tuple[int, int], RunRecord]] = {}

    def records(self, study: Study) -> dict[str, RunRecord]:
        """The records of its runs, by name, as far as there are any."""
        found = {}
        for name in dict.fromkeys(run.name for run in study.runs):
            with suppress(OSError, RunError):
                at = os.stat(self.folder / name / RECORD)
                mark = (at.st_mtime_ns, at.st_size)
                if self.known.get(name, (None,))[0] != mark:
                    self.known[name] = (mark, read_record(self.folder / name))
                found[name] = self.known[name][1]
        return found


def look(reader: Reader, now: float) -> Progress:
    """How far a study is.

    Args:
        reader: of the study's folder.
        now: the time, in seconds since 1970.

    Raises:
        RunError: when there is no study, or its file is damaged.
    """
    folder = reader.folder
    study = read_study(folder)
    records = reader.records(study)
    runs = [_seen(run, records.get(run.name), folder, now) for run in study.runs]
    return Progress(study.name, runs, _left(study, runs), study.finished is not None)


def _seen(run: StudyRun, record: RunRecord | None, folder: Path, now: float) -> Seen:
    if record is None:
        return Seen(name=run.name, state=QUEUED)
    state = str(record.status)
    if record.status is Status.done:
        return Seen(name=run.name, state=state, loss=record.metric(EVAL_LOSS.name), seconds=seconds(record))
    if record.status is not Status.running:
        lines = (record.error or "no reason is recorded").strip().splitlines()
        return Seen(name=run.name, state=state, error=lines[0][:160])
    return _at_work(run, record, folder / run.name, now)


def _at_work(run: StudyRun, record: RunRecord, folder: Path, now: float) -> Seen:
    rows = [row for row in read_history(folder) if row["step"] > 0]
    heard = max((_written(folder / name) for name in (HISTORY, RECORD)), default=now)
    silent = now - heard if now - heard > SILENT else None
    if not rows:
        return Seen(name=run.name, state="running", silent=silent)
    step = int(rows[-1]["step"])
    share = _share(rows[-1], record)
    losses = [row["loss"] for row in rows if isinstance(row.get("loss"), int | float)]
    session = record.sessions[-1] if record.sessions else {}
    steps = round(step / share) if share else None
    new = step - int(session.get("from_step") or 0)
    spent = now - moment(session.get("started") or record.started)
    left = spent / new * max(steps - step, 0) if steps and new > 0 and spent > 0 else None
    return Seen(
        name=run.name, state="running", step=step, steps=steps, loss=losses[-1] if losses else None, left=left,
        silent=silent,
    )  # fmt: skip


def _share(row: Mapping[str, Any], record: RunRecord) -> float | None:
    """How much of the training is done, 0 to 1."""
    if most := setting(record, "train.max_steps"):
        return min(float(row["step"]) / float(most), 1.0)
    epochs = setting(record, "train.epochs")
    return min(float(row["epoch"]) / float(epochs), 1.0) if epochs and row.get("epoch") else None


def _written(path: Path) -> float:
    try:
        return os.path.getmtime(path)
    except OSError:
        return 0.0


def _left(study: Study, runs: Sequence[Seen]) -> float | None:
    """Seconds until the last planned run: those at work by their own pace, queued ones like those that are done.

    Runs that are at work side by side share what is queued.
    """
    plans = {run.name: run for run in study.runs}
    open_ = [one for one in runs if one.state in ("running", QUEUED)]
    if not open_:
        return 0.0
    known = [(plans[one.name], one.seconds / plans[one.name].steps) for one in runs if one.seconds]
    if not known:
        return None
    rest = 0.0
    for one in open_:
        expected = _like(plans[one.name], known) * plans[one.name].steps
        rest += one.left if one.left is not None else expected
    return rest / max(sum(one.state == "running" for one in open_), 1)


def _like(run: StudyRun, known: Sequence[tuple[StudyRun, float]]) -> float:
    """Seconds of a whole training like this one: of the same task and arm, else of the same task, else of any."""
    for alike in (
        [took for other, took in known if (other.task, other.arm) == (run.task, run.arm)],
        [took for other, took in known if other.task == run.task],
    ):
        if alike:
            return statistics.fmean(alike)
    return statistics.fmean(took for _, took in known)
