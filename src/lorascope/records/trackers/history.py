"""The local tracker: a line of `history.jsonl` for each step that was logged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lorascope.records.record import RunRecord
from lorascope.records.store import HISTORY


class History:
    """`history.jsonl` in the run's folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / HISTORY

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def finish(self, record: RunRecord) -> None:
        """Nothing is left to do: the record is kept elsewhere."""
