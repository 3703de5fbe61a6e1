"""Trackio: a run's record and values become a run of a local Trackio project; nothing leaves the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from lorascope.records.record import RunRecord

ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID")


class Trackio:
    """A run of the project in Trackio's own folder: TRACKIO_DIR, or trackio/ in the hub client's cache."""

    def __init__(self, record: RunRecord, folder: Path, metrics: Mapping[str, str]) -> None:
        with _on_this_machine():
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
        """A row of the history."""
        self.run.log(dict(values), step=step)

    def finish(self, record: RunRecord) -> None:
        """The last rows are written."""
        import trackio

        with redirect_stdout(StringIO()):
            trackio.finish()

    @property
    def note(self) -> str:
        """A line for the user: how to look at the project."""
        return f"Trackio trackio show --project {self.project}"


@contextmanager
def _on_this_machine() -> Iterator[None]:
    """Trackio asks the hub who the user is, even for a local run, and prints on our screen: neither is wanted."""
    from huggingface_hub import constants

    kept = {name: os.environ.pop(name) for name in ELSEWHERE if name in os.environ}
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        constants.HF_HUB_OFFLINE = before
        os.environ.update(kept)
