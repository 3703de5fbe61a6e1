"""Send to W&B what a run does not send itself: studies, and runs that were offline."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lorascope.errors import LorascopeError, RunError
from lorascope.records.environment import redact
from lorascope.records.record import FILE, RunRecord, read_record
from lorascope.records.store import WANDB, claim, is_at_work
from lorascope.trackers.local import read_history
from lorascope.trackers.wandb import STEP, Wandb
from lorascope.trackers.wandb_account import bound_table, group_and_tags, read_state, update_state


class WandbStudy(Wandb):
    """A W&B run of job_type "study" in the group of the study's runs; sent again, it stays the same W&B run.

    `replay` are the arguments of `Wandb` for a study that is sent later.
    """

    def __init__(self, record: RunRecord, folder: Path, study: Mapping[str, Any], *replay: Any) -> None:
        self.study = redact(dict(study))
        super().__init__(record, folder, {}, *replay)

    def _last_step(self, run: Any) -> int:
        """The last step that was ever logged: the study is logged again after it."""
        self.reached = max(self.reached, int(run.starting_step) - 1)
        return self.reached

    def _begin(self, record: RunRecord) -> None:
        """Log nothing: a study has no modules."""

    def _description(self, record: RunRecord) -> dict[str, Any]:
        group, tags = group_and_tags(record.config)
        kind = {"job_type": "study", "config": {"study": self.study}}
        return {"name": str(self.study["name"]), "group": group, "tags": tags} | kind

    def show(self, rows: Sequence[Mapping[str, Any]], page: str, summary: Mapping[str, Any]) -> None:
        """Log the results as a table, the report's HTML and single values, and end the run."""
        import wandb

        step = self.reached + 1
        with self._data_in_folder():
            table = bound_table(self.run, rows, list(rows[0]), "results", step)
            self.run.log({"results": table, "report": wandb.Html(redact(page), inject=False)}, step=step)
        update_state(self.folder, reached=step)
        self.run.summary.update(redact(dict(summary)))
        self.end(well=True)


# takes a folder, a place for W&B's own files and seconds for start and end; returns the W&B run, sent and ended
Replay = Callable[[Path, Path, float], Wandb]


@dataclass(frozen=True)
class Outcome:
    """One run's folder and state, with the run's address, the reason, or what is to be sent."""

    folder: Path
    state: Literal["sent", "unsent", "nothing", "running", "failed"]
    detail: str = ""


def runs_below(places: Sequence[str]) -> list[Path]:
    """The folders at or below each place that hold a W&B run, by name.

    Raises:
        RunError: when a place is not a folder.
    """
    found = set()
    for place in places:
        root = Path(place).expanduser()
        if not root.is_dir():
            raise RunError(place, "is not a folder.", "Name a runs_dir, or the folders of runs.")
        found |= {path.parents[2] for path in root.rglob(f"{WANDB}/*run-*/run-*.wandb")}
    return sorted(found)


def look(folder: Path) -> Outcome:
    """What `send` would do with a run."""
    rows = len(list(read_history(folder)))
    left = f"{rows} rows" if rows else "" if (folder / FILE).exists() else "the report"
    if not left or read_state(folder).get("sent") == rows:
        return Outcome(folder, "nothing")
    return Outcome(folder, "running") if is_at_work(folder) else Outcome(folder, "unsent", left)


def replay_run(folder: Path, place: Path, seconds: float) -> Wandb:
    """Log a run's history, as far as the server lacks it, its summary and its end."""
    record = read_record(folder)
    better = {name: metric["better"] for name, metric in record.metrics.items() if metric.get("better")}
    tracker = Wandb(record, folder, better, place, seconds)
    for row in read_history(folder):
        tracker.log(row.pop(STEP), row)
    tracker.finish(record)
    return tracker


def send(folder: Path, seconds: float = 300, replay: Replay = replay_run) -> Outcome:
    """Send what W&B lacks of a run; W&B may take so many seconds for its start, and for its end."""
    outcome = look(folder)
    if outcome.state != "unsent":
        return outcome
    try:
        with claim(folder), tempfile.TemporaryDirectory(prefix="lorascope-") as place:
            tracker = replay(folder, Path(place), seconds)
    except LorascopeError as error:
        return Outcome(folder, "failed", error.what)
    except Exception as error:
        return Outcome(folder, "failed", _reason(error, folder, seconds))
    if tracker.lacking:
        return Outcome(folder, "failed", "W&B did not take all of it")
    return Outcome(folder, "sent", tracker.run.url)


def _reason(error: Exception, folder: Path, seconds: float) -> str:
    """The first line of W&B's message, without the run's id: it is the same for two runs that fail alike."""
    text = redact(str(error)).replace(f" for run {read_state(folder).get('id')}", "")
    if "timed out" in text or "deadline exceeded" in text:
        return f"took longer than {seconds:g} s"
    return next(iter(text.splitlines()), type(error).__name__)
