"""What is learned, before a tokenizer sees it: conversations or texts, in two halves."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str  # system, user or assistant
    content: str


@dataclass(frozen=True)
class Row:
    """One example: a conversation of which answers are learned, or a plain text of which all is learned."""

    messages: tuple[Message, ...] = ()
    text: str = ""
    every_answer: bool = False  # learn each answer of the assistant, not the last alone
    group: str = ""  # rows of one group never stand on both sides of the split
    place: str = ""  # file and number, for errors
    accepted: tuple[str, ...] = ()  # further answers that are right

    @property
    def prompt(self) -> str:
        """What stands before the last answer, without the system's message; of a text, the text."""
        return "\n".join(m.content for m in self.messages[:-1] if m.role != "system") if self.messages else self.text

    @property
    def question(self) -> str:
        """The last message before the last answer; of a text, the text."""
        return self.messages[-2].content if len(self.messages) > 1 else self.prompt

    @property
    def completion(self) -> str:
        """The last answer; of a text, nothing."""
        return self.messages[-1].content if self.messages else ""


def exchange(prompt: str, completion: str, system: str = "", group: str = "", place: str = "") -> Row:
    """A row of one question and its answer."""
    head = (Message("system", system),) if system else ()
    messages = (*head, Message("user", prompt), Message("assistant", completion))
    return Row(messages=messages, group=group, place=place)


@dataclass(frozen=True)
class Rows:
    """Both halves of a data set, what else is asked apart, where all came from, and what was left out."""

    train: Sequence[Row]  # a tuple, or rows on the disk
    eval: Sequence[Row]
    origin: str  # package and version, files, or hub id and commit
    shape: str = "prompt and completion"
    skipped: tuple[str, ...] = ()  # a line for each bad row, when they are skipped
    probes: Mapping[str, Sequence[Row]] = field(default_factory=dict)  # further sets: reversed, control, longer …
    labels: tuple[str, ...] = ()  # the classes, where each completion is one of them
    labels_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # the same by probe, where they differ
    license: str = ""  # of the data, as its makers name it
    split: str = ""  # what divides train from eval, in words

    def capped(self, train: int | None, evaluation: int | None) -> Rows:
        """At most so many rows of each half and set, the same ones every time, whatever the run's seed."""
        probes = {name: some(rows, evaluation) for name, rows in self.probes.items()}
        return replace(self, train=some(self.train, train), eval=some(self.eval, evaluation), probes=probes)


def some(rows: Sequence[Row], cap: int | None) -> Sequence[Row]:
    """At most so many rows, in their order, the same ones every time."""
    if cap is None or cap >= len(rows):
        return rows
    return tuple(rows[index] for index in sorted(random.Random(0).sample(range(len(rows)), cap)))


def rows_hash(rows: Sequence[Row]) -> str:
    """SHA-256 over the rows in order, 16 hex digits."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(hashed_part(row))
    return digest.hexdigest()[:16]


def hashed_part(row: Row) -> bytes:
    """What of a row its hash is made of: all that is learned from, not where it stands."""
    return json.dumps([row.messages, row.text, row.every_answer]).encode()


def shared_prompts(rows: Rows) -> list[Row]:
    """The eval rows whose prompt stands in the train half too, apart from case and spaces."""

    def key(row: Row) -> str:
        return " ".join(row.prompt.casefold().split())

    asked = {key(row) for row in rows.eval}
    shared = {prompt for prompt in map(key, rows.train) if prompt in asked}
    return [row for row in rows.eval if key(row) in shared]
