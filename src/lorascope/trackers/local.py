"""Trackers on this machine: history.jsonl, TensorBoard and Trackio."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any, cast

import yaml

from lorascope.records.record import MODULE_COLUMNS, RunRecord, Status, write_text
from lorascope.records.store import HISTORY, TENSORBOARD


class History:
    """`history.jsonl` in the run's folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / HISTORY
        self.resumed_at = -1  # lines of earlier steps are in the file

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line, unless it is of a step before that of `rewind`.

        More lines of that very step may follow: an evaluation that was cut is repeated.
        """
        if step >= self.resumed_at:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")

    def rewind(self, step: int) -> None:
        """Drop the lines after the step, and incomplete ones, in one step."""
        rows = read_history(self.path.parent)
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))
        self.resumed_at = step

    def finish(self, record: RunRecord) -> None:
        """Do nothing: the record is in a file of its own."""


def read_history(folder: Path) -> Iterator[dict[str, Any]]:
    """The valid lines of a run's `history.jsonl`, each with its "step"."""
    lines = []
    with suppress(OSError):
        lines = (folder / HISTORY).read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                yield row


PARTS = ("model", "dataset", "target", "quantization", "train", "seed", "device")  # of the config, for HPARAMS


class TensorBoard:
    """Scalars of each step, the config and the targeted modules as text, and a row for the HPARAMS page."""

    def __init__(self, record: RunRecord, folder: Path, metrics: Mapping[str, str]) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.folder = folder
        self.writer = cast(Any, SummaryWriter(log_dir=str(folder / TENSORBOARD)))
        chosen = dict(_flat({part: record.config[part] for part in PARTS}))
        experiment, start, self.end = hparams(chosen, dict.fromkeys(metrics, 0.0))
        self.writer.file_writer.add_summary(experiment)
        self.writer.file_writer.add_summary(start)
        self.writer.add_text("config", f"```yaml\n{yaml.safe_dump(record.config, sort_keys=False)}```")
        self.writer.add_text("modules", _table(record.plan["modules"]))
        self.writer.flush()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write a point of each curve, on the disk at once: the process may be killed."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def rewind(self, step: int) -> None:
        """Let TensorBoard's page leave out what earlier sessions logged of later steps; the files keep it."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        start = SessionLog(status=SessionLog.START)
        self.writer.file_writer.add_event(Event(step=step + 1, session_log=start))

    def finish(self, record: RunRecord) -> None:
        """Write the metrics that are measured only once, and the end of a run that is done."""
        steps = int(record.timing.get("steps", 0))
        for name, metric in record.metrics.items():
            self.writer.add_scalar(f"final/{name}", metric["value"], steps)
        if record.status is Status.done:
            self.writer.file_writer.add_summary(self.end)
        self.writer.close()

    @property
    def note(self) -> str:
        """How to look at this run and its neighbours."""
        return f"TensorBoard  tensorboard --logdir {self.folder.parent}"


def _flat(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str | float | bool]]:
    """Dotted names and plain values, without None."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{place}{key}.")
        elif value is not None:
            yield f"{place}{key}", value if isinstance(value, str | int | float | bool) else str(value)


def _table(modules: list[dict[str, Any]]) -> str:
    """The targeted modules as a table of Markdown, a row each."""
    cells = [[module[name] for name in MODULE_COLUMNS] for module in modules]
    rows = [MODULE_COLUMNS, ["---"] * len(MODULE_COLUMNS), *cells]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID")


class Trackio:
    """A run of the project in Trackio's own folder: TRACKIO_DIR, or trackio/ in the hub client's cache."""

    def __init__(self, record: RunRecord, folder: Path, metrics: Mapping[str, str]) -> None:
        with _offline():
            import trackio

            logger = record.config["logger"]
            self.project = logger["trackio"]["project"]
            self.run: Any = trackio.init(
                project=self.project,
                name=record.name,
                group=logger["group"],
                config=record.config | {"run_id": record.run_id, "plan": record.plan_totals(), "better": dict(metrics)},
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write a row of the history."""
        self.run.log(dict(values), step=step)

    def finish(self, record: RunRecord) -> None:
        """Write the last rows."""
        import trackio

        with redirect_stdout(StringIO()):
            trackio.finish()

    @property
    def note(self) -> str:
        """How to look at the project."""
        return f"Trackio trackio show --project {self.project}"


@contextmanager
def _offline() -> Iterator[None]:
    """Keep Trackio from asking the hub who the user is, as it does even for a local run, and from printing."""
    from huggingface_hub import constants

    kept = {name: os.environ.pop(name) for name in ELSEWHERE if name in os.environ}
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        constants.HF_HUB_OFFLINE = before
        os.environ.update(kept)
