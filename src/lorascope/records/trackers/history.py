"""The local tracker: a line of `history.jsonl` for each step that was logged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lorascope.atomic import write_text
from lorascope.records.record import RunRecord
from lorascope.records.store import HISTORY


class History:
    """`history.jsonl` in the run's folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / HISTORY
        self.kept = -1  # what came before this step is written, and not written again

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line; one of a step before that of `rewind` is there already.

        Of that very step there may be more to come: an evaluation that was cut is made anew.
        """
        if step >= self.kept:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")

    def rewind(self, step: int) -> None:
        """Drop the lines after the step, and one that was cut; the file is the old or the new one, never half of it."""
        rows = read_history(self.path.parent)
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))
        self.kept = step

    def finish(self, record: RunRecord) -> None:
        """Nothing is left to do: the record is kept elsewhere."""


def read_history(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's `history.jsonl`, each with its "step"; what is no such line is passed over."""
    lines = []
    with suppress(OSError):
        lines = (folder / HISTORY).read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                yield row
