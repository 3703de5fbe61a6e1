"""What is learned, before a tokenizer sees it: rows of prompt messages and a completion, in two halves."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One example: the model reads `system` and `prompt`, and learns to answer `completion`."""

    prompt: str
    completion: str
    system: str = ""
    group: str = ""  # rows of one group never stand on both sides of the split

    def prompt_messages(self) -> list[dict[str, str]]:
        """The prompt as chat messages."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        return [*head, {"role": "user", "content": self.prompt}]

    def completion_messages(self) -> list[dict[str, str]]:
        """The completion as a chat message."""
        return [{"role": "assistant", "content": self.completion}]


@dataclass(frozen=True)
class Rows:
    """Both halves of a data set, and where they came from."""

    train: tuple[Row, ...]
    eval: tuple[Row, ...]
    origin: str  # package and version, file, or hub id and commit

    def capped(self, train: int | None, evaluation: int | None) -> Rows:
        """At most so many rows of each half, the same ones every time, whatever the run's seed."""
        return Rows(_some(self.train, train), _some(self.eval, evaluation), self.origin)


def _some(rows: tuple[Row, ...], cap: int | None) -> tuple[Row, ...]:
    if cap is None or cap >= len(rows):
        return rows
    return tuple(rows[index] for index in sorted(random.Random(0).sample(range(len(rows)), cap)))


def rows_hash(rows: Sequence[Row]) -> str:
    """SHA-256 over the rows in order, 16 hex digits."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.system, row.prompt, row.completion]).encode())
    return digest.hexdigest()[:16]
