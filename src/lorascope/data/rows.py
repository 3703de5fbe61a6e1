"""Rows of conversations or texts, in memory or on disk."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

if TYPE_CHECKING:
    from datasets import Dataset


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str  # system, user or assistant
    content: str


RawRow = tuple[str, Any]  # where it stands, and what stands there: an object, or a BadRowError


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


PIECE = 512  # rows that are held before they are written


class SpooledRows(Sequence[Row]):
    """Rows in a file of their own, which goes when they go; of each only its place is held."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lorascope-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.starts = array("Q", [0])
        self.file: Any = (self.folder / "rows.jsonl").open("wb")

    def append(self, row: Row) -> None:
        """Write a row; not after `close`."""
        said = [row.messages, row.text, row.every_answer, row.group, row.place, row.accepted]
        line = json.dumps(said).encode() + b"\n"
        self.file.write(line)
        self.starts.append(self.starts[-1] + len(line))

    def close(self) -> SpooledRows:
        """Nothing more comes: the rows can be read."""
        self.file.close()
        return self

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Row, ...]: ...
    def __getitem__(self, index: int | slice) -> Row | tuple[Row, ...]:
        if isinstance(index, slice):
            return tuple(self[one] for one in range(*index.indices(len(self))))
        place = range(len(self))[index]
        with (self.folder / "rows.jsonl").open("rb") as file:
            file.seek(self.starts[place])
            return _row(file.readline())

    def __iter__(self) -> Iterator[Row]:
        with (self.folder / "rows.jsonl").open("rb") as file:
            yield from map(_row, file)


def _row(line: bytes) -> Row:
    messages, text, every_answer, group, place, accepted = json.loads(line)
    turns = tuple(Message(*one) for one in messages)
    return Row(turns, text, every_answer, group, place, tuple(accepted))


class TokenFile:
    """Token ids and labels as an Arrow file, written in pieces and read by memory map."""

    def __init__(self) -> None:
        import pyarrow

        self.folder = Path(tempfile.mkdtemp(prefix="lorascope-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.path = self.folder / "tokens.arrow"
        kind = pyarrow.list_(pyarrow.int32())
        self.schema = pyarrow.schema({"input_ids": kind, "labels": kind})
        self.writer = pyarrow.ipc.new_stream(str(self.path), self.schema)
        self.held: list[tuple[list[int], list[int]]] = []
        self.rows = 0

    def append(self, ids: list[int], labels: list[int]) -> None:
        """Write a row; not after `close`."""
        self.held.append((ids, labels))
        self.rows += 1
        if len(self.held) == PIECE:
            self._write()

    def close(self) -> None:
        """Nothing more comes: the columns can be read."""
        self._write()
        self.writer.close()
        self.dataset = _mapped(self.path)

    def _write(self) -> None:
        import pyarrow

        if self.held:
            columns = [pyarrow.array(column, self.schema.types[0]) for column in zip(*self.held, strict=True)]
            self.writer.write_batch(pyarrow.record_batch(columns, schema=self.schema))
        self.held = []


def _mapped(path: Path) -> Dataset:
    from datasets import Dataset

    return Dataset.from_file(str(path))


class TokenColumn(Sequence[list[int]]):
    """A column of a TokenFile, a list of integers for each row."""

    def __init__(self, file: TokenFile, name: str) -> None:
        self.file, self.name = file, name

    def __len__(self) -> int:
        return self.file.rows

    def __getitem__(self, index: Any) -> Any:
        return self.file.dataset.with_format(None)[index][self.name]

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.file.dataset.data.table.select([self.name]).to_batches(max_chunksize=PIECE):
            yield from batch.column(0).to_pylist()


def spooled(
    rows: Iterator[Row], cap: int | None, held_out: Callable[[Row], bool], held_out_cap: int | None
) -> tuple[SpooledRows, SpooledRows]:
    """Rows in two files: those that stay, and those held out; reading ends once so many stay."""
    kept, rest = SpooledRows(), SpooledRows()
    for row in rows:
        if not held_out(row):
            kept.append(row)
        elif held_out_cap is None or len(rest) < held_out_cap:
            rest.append(row)
        if len(kept) == cap:
            break
    return kept.close(), rest.close()
