"""TensorBoard: a run's record, plan and values become event files in `tensorboard/` of the run's folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lorascope.records.record import MODULE_COLUMNS, RunRecord, Status
from lorascope.records.store import TENSORBOARD

PARTS = ("model", "dataset", "target", "quantization", "train", "seed", "device")  # of the config, for HPARAMS


class TensorBoard:
    """Scalars of each step, the config and the targeted modules as text, and a row for the HPARAMS page."""

    def __init__(self, record: RunRecord, folder: Path, metrics: Mapping[str, str]) -> None:
        from torch.utils.tensorboard.summary import hparams

        self.folder = folder
        self.writer = _writer(folder / TENSORBOARD)
        chosen = dict(_flat({part: record.config[part] for part in PARTS}))
        experiment, start, self.end = hparams(chosen, dict.fromkeys(metrics, 0.0))
        self.writer.file_writer.add_summary(experiment)
        self.writer.file_writer.add_summary(start)
        self.writer.add_text("config", f"```yaml\n{yaml.safe_dump(record.config, sort_keys=False)}```")
        self.writer.add_text("modules", _table(record.plan["modules"]))
        self.writer.flush()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A point of each curve, on disk at once: the process may be killed."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def rewind(self, step: int) -> None:
        """TensorBoard leaves out what earlier sessions told of later steps; its page does, the files keep it."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        start = SessionLog(status=SessionLog.START)
        self.writer.file_writer.add_event(Event(step=step + 1, session_log=start))

    def finish(self, record: RunRecord) -> None:
        """The metrics that were measured only once, and the end of a run that is done."""
        steps = int(record.timing.get("steps", 0))
        for name, metric in record.metrics.items():
            self.writer.add_scalar(f"final/{name}", metric["value"], steps)
        if record.status is Status.done:
            self.writer.file_writer.add_summary(self.end)
        self.writer.close()

    @property
    def note(self) -> str:
        """A line for the user: how to look at this run and its neighbours."""
        return f"TensorBoard  tensorboard --logdir {self.folder.parent}"


def _writer(place: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir=str(place))


def _flat(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str | float | bool]]:
    """Dotted names and plain values; what is not set is left out."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{place}{key}.")
        elif value is not None:
            yield f"{place}{key}", value if isinstance(value, str | int | float | bool) else str(value)


def _table(modules: list[dict[str, Any]]) -> str:
    """The targeted modules as a table of Markdown, a row each."""
    rows = [
        MODULE_COLUMNS,
        ["---"] * len(MODULE_COLUMNS),
        *([module[name] for name in MODULE_COLUMNS] for module in modules),
    ]
    return "\n".join(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)
