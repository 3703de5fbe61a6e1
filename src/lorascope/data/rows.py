"""Rows of conversations or texts, in memory or on disk."""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from datasets import Dataset


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str  # system, developer, user, assistant or tool
    content: str
    extra: str = ""  # JSON of what else the chat template is given: tool_calls, reasoning_content, tool_call_id …
    learned: bool = True  # where it is an answer

    def as_turn(self) -> dict[str, Any]:
        """The message as a chat template takes it."""
        return {"role": self.role, "content": self.content} | (json.loads(self.extra) if self.extra else {})

    @property
    def hashed(self) -> tuple[Any, ...]:
        """What of it enters the row's hash."""
        return tuple(self) if self.extra or not self.learned else (self.role, self.content)


READ_ROWS = 512  # rows that are in memory at once when a file is read or written piece by piece
RawRow = tuple[str, Any]  # its place, and an object or a BadRowError


@dataclass(frozen=True)
class Row:
    """One example: a conversation whose answers are learned, or a text that is learned from start to end."""

    messages: tuple[Message, ...] = ()
    text: str = ""
    every_answer: bool = False  # learn all answers of the assistant, not only the last
    group: str = ""  # rows of one group are never in both splits
    place: str = ""  # file and number, for errors
    accepted: tuple[str, ...] = ()  # other correct answers
    tools: str = ""  # JSON of the tools' descriptions, which the chat template is given

    @property
    def prompt(self) -> str:
        """All before the last answer except the system message; of a text, the text."""
        asked = (m.content or m.extra for m in self.messages[:-1] if m.role not in ("system", "developer"))
        return "\n".join(asked) if self.messages else self.text

    @property
    def question(self) -> str:
        """The last message before the last answer; of a text, the text."""
        return self.messages[-2].content if len(self.messages) > 1 else self.prompt

    @property
    def completion(self) -> str:
        """The last answer; empty for a text."""
        return self.messages[-1].content if self.messages else ""

    @property
    def normalized_prompt(self) -> str:
        """The prompt without differences in case and spaces."""
        return " ".join(self.prompt.casefold().split())


def exchange(prompt: str, completion: str, system: str = "", group: str = "", place: str = "") -> Row:
    """A row of one question and its answer."""
    head = (Message("system", system),) if system else ()
    return Row((*head, Message("user", prompt), Message("assistant", completion)), group=group, place=place)


@dataclass(frozen=True)
class Rows:
    """The train and eval splits of a data set, its further eval sets, and where they come from."""

    train: Sequence[Row]  # a tuple, or DiskRows
    eval: Sequence[Row]
    origin: str  # package and version, files, or hub id and commit
    shape: str = "prompt and completion"
    skipped: tuple[str, ...] = ()  # a line for each bad row, when they are skipped
    probes: Mapping[str, Sequence[Row]] = field(default_factory=dict)  # further sets: reversed, control, longer …
    labels: tuple[str, ...] = ()  # the classes, where each completion is one of them
    labels_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # the same by probe, where they differ
    license: str = ""  # of the data, as its makers name it
    split: str = ""  # how train and eval were divided, in words
    unused: tuple[str, ...] = ()  # columns and keys of messages that never reach the model
    notes: tuple[str, ...] = ()  # on what was read otherwise than row by row

    def capped(self, train: int | None, evaluation: int | None) -> Rows:
        """At most so many rows of each split and set, the same ones for every seed of a run."""
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
    """The bytes of a row that enter its hash: what is learned, not where it comes from."""
    messages = [message.hashed for message in row.messages]
    return json.dumps([messages, row.text, row.every_answer, *([row.tools] if row.tools else [])]).encode()


def shared_prompts(rows: Rows) -> list[Row]:
    """The eval rows whose prompt is in the train split too, up to case and spaces."""
    asked = {row.normalized_prompt for row in rows.eval}  # so that a large train split is not held in memory
    shared = asked.intersection(row.normalized_prompt for row in rows.train)
    return [row for row in rows.eval if row.normalized_prompt in shared]


class DiskRows(Sequence[Row]):
    """Rows in a temporary file that is deleted with them; only their offsets are in memory."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(prefix="lorascope-")  # noqa: SIM115
        weakref.finalize(self, self.file.close)
        self.offsets = array("Q")

    def append(self, row: Row) -> None:
        """Write a row; only before the first one is read."""
        self.offsets.append(self.file.tell())
        self.file.write(json.dumps(vars(row)).encode() + b"\n")

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self[one] for one in range(*index.indices(len(self))))
        self.file.seek(self.offsets[index])
        values = json.loads(self.file.readline())
        messages = tuple(Message(*one) for one in values["messages"])
        return Row(**values | {"messages": messages, "accepted": tuple(values["accepted"])})


def write_tokens(rows: Iterator[tuple[list[int], list[int]]]) -> Dataset:
    """Token ids and labels as a memory-mapped Arrow file that is deleted with the returned data set."""
    import pyarrow
    from datasets import Dataset

    kind = pyarrow.list_(pyarrow.int32())
    schema = pyarrow.schema({"input_ids": kind, "labels": kind})
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lorascope-")), "tokens.arrow")
        with pyarrow.ipc.new_stream(str(path), schema) as writer:
            while batch := list(islice(rows, READ_ROWS)):
                columns = [pyarrow.array(column, kind) for column in zip(*batch, strict=True)]
                writer.write_batch(pyarrow.record_batch(columns, schema=schema))
        dataset = Dataset.from_file(str(path))
        weakref.finalize(dataset, stack.pop_all().close)
        return dataset
