"""Rows and their tokens on the disk instead of in the memory: written once in order, read back as sequences."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from lorascope.data.rows import Message, Row

if TYPE_CHECKING:
    from datasets import Dataset

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
