"""Rows out of the user's own files: JSON Lines, JSON, CSV, TSV and Parquet; every row knows its file and number."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import glob
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from lorascope.config import DatasetConfig, OnBadRow
from lorascope.data.rows import Row, Rows
from lorascope.data.shapes import BadRowError, Said, Shape, classes, find_shape, to_row
from lorascope.data.split import is_held_out, require_halves, split_rows, split_words
from lorascope.data.spool import PIECE, spooled
from lorascope.data.template import read_template
from lorascope.errors import DataError

LONGEST_FIELD = 2**31 - 1  # characters; Python's own limit is shorter than many a document
PEEKED = 1000  # rows that tell the columns of a stream
RawRow = tuple[str, Any]  # where it stands, and what stands there: an object, or a BadRowError


def find_files(pattern: str, key: str = "dataset.path") -> list[Path]:
    """The files that a path, folder or glob means, sorted.

    Raises:
        DataError: when there is none, or one of an unknown kind.
    """
    path = Path(os.path.expanduser(pattern))
    if os.path.isdir(path):  # which takes names of every length and kind
        found = sorted(file for file in path.iterdir() if file.suffix in READERS and file.is_file())
    elif os.path.isfile(path):
        found = [path]
    else:
        found = sorted(Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file())
    if not found:
        beside = path.parent.glob("*") if os.path.isdir(path.parent) else []
        near = difflib.get_close_matches(path.name, [one.name for one in beside if one.name != path.name])
        hint = f"Did you mean {path.parent / near[0]}?" if near else f"Files are read from {Path.cwd()}."
        raise DataError(f"{key}={pattern}", "there is no such file.", hint)
    for file in found:
        if file.suffix not in READERS:
            raise DataError(f"{key}={file}", f"'{file.suffix}' is no kind of file that is read.", f"Kinds: {_kinds()}.")
    return found


def content_hash(dataset: DatasetConfig) -> str:
    """SHA-256 over the bytes of all files, so that an edited file makes another run; 16 hex digits.

    Raises:
        DataError: when a file is missing or cannot be read.
    """
    digest = hashlib.sha256()
    for key, pattern in (("dataset.path", dataset.path), ("dataset.eval_path", dataset.eval_path)):
        for file in _parts(pattern, key, dataset.source) if pattern else []:
            for piece in _pieces(file):
                digest.update(piece)
    return digest.hexdigest()[:16]


def _parts(pattern: str, key: str, source: str) -> list[Path]:
    """All that a folder read as a hub's data set holds; else the files that are read."""
    if source == "file":
        return find_files(pattern, key)
    return sorted(file for file in Path(pattern).rglob("*") if file.is_file()) if os.path.isdir(pattern) else []


def load(dataset: DatasetConfig) -> Rows:
    """Both halves of the user's files.

    Raises:
        DataError: for a file that cannot be read, or the first bad row unless they are skipped.
    """
    assert dataset.path
    labels = classes(dataset.labels)
    main = Source(partial(_all_rows, dataset.path, "dataset.path", dataset.streaming), dataset.path)
    other = None
    if dataset.eval_path:
        other = Source(partial(_all_rows, dataset.eval_path, "dataset.eval_path", dataset.streaming), dataset.eval_path)
    train, held_out, shape, skipped = read_halves(dataset, labels, main, other)
    split = "files of its own" if other else split_words(dataset)
    return Rows(train, held_out, dataset.path, shape, skipped, labels=labels, split=split)


class Source(NamedTuple):
    """Raw rows, given anew at each call, and the file or hub id that they come from."""

    rows: Callable[[], Iterator[RawRow]]
    place: str


def read_halves(
    dataset: DatasetConfig, labels: Sequence[str], main: Source, other: Source | None
) -> tuple[Sequence[Row], Sequence[Row], str, tuple[str, ...]]:
    """Train and eval rows, the name of their shape, and a line for each that was skipped.

    Args:
        dataset: its settings decide.
        labels: the answers' classes, where there are any.
        main: what is learned from.
        other: the eval half, where it is not a share of the rows.

    Raises:
        DataError: for the first bad row, unless they are skipped; when no row is left.
    """
    reading = Reading(main, dataset, said(dataset), labels)
    later = Reading(other, dataset, said(dataset, evaluation=True), labels) if other else None
    by_group = dataset.group is not None
    if not dataset.streaming:
        rows = reading.all()
        if later is not None:
            return tuple(rows), tuple(later.all()), reading.shape_name, (*reading.bad, *later.bad)
        train, rest = split_rows(rows, dataset.eval_share, by_group=by_group)
        return train, rest, reading.shape_name, tuple(reading.bad)
    if later is not None:
        one, _ = spooled(iter(reading), dataset.max_train_samples, lambda row: False, None)
        two, _ = spooled(iter(later), dataset.max_eval_samples, lambda row: False, None)
        reading.finish(one)
        later.finish(two)
        return one, two, reading.shape_name, (*reading.bad, *later.bad)
    one, two = spooled(
        iter(reading),
        dataset.max_train_samples,
        lambda row: is_held_out(row, dataset.eval_share, by_group=by_group),
        dataset.max_eval_samples,
    )
    reading.finish([*one[:1], *two[:1]])
    require_halves(one, two, len(one) + len(two), dataset.eval_share)
    return one, two, reading.shape_name, tuple(reading.bad)


def said(dataset: DatasetConfig, *, evaluation: bool = False) -> Said:
    """What the settings say of the columns of a half."""
    template = read_template(dataset.prompt) if dataset.prompt else None
    if evaluation and dataset.eval_columns:
        return Said(dataset.eval_columns, template, "dataset.eval_columns")
    return Said(dataset.columns, template)


class Reading:
    """Raw rows as checked ones, in order; what is wrong with the others is kept.

    Raises:
        DataError: when it is made, for columns that tell no shape; by `finish`, for bad rows.
    """

    def __init__(self, source: Source, dataset: DatasetConfig, said: Said, labels: Sequence[str]) -> None:
        self.source, self.dataset = source, dataset
        self.bad: list[str] = []
        present: set[str] = set()
        # a stream is not read twice: its first rows tell the columns
        for _, raw in islice(source.rows(), PEEKED if dataset.streaming else None):
            if isinstance(raw, dict):
                present |= raw.keys()
        shape = find_shape(present, said, source.place) if present else None
        self.shape = with_labels(shape, labels) if shape and labels else shape
        # a group matters where rows are split, and an eval half with columns of its own is not
        self.group = None if said.key == "dataset.eval_columns" else dataset.group
        if self.group and shape and self.group not in present:
            there = ", ".join(sorted(present))
            raise DataError(f"dataset.group={self.group}", f"{source.place} has no such column.", f"It has: {there}.")

    @property
    def shape_name(self) -> str:
        """How the rows are read."""
        return self.shape.name if self.shape else ""

    def __iter__(self) -> Iterator[Row]:
        for where, raw in self.source.rows():
            try:
                if isinstance(raw, BadRowError):
                    raise raw
                if not isinstance(raw, dict) or self.shape is None:
                    raise BadRowError("is not an object with named values")
                yield to_row(raw, self.shape, self.dataset.system, self.group, where)
            except BadRowError as error:
                self.bad.append(f"{where}: {error}")

    def all(self) -> list[Row]:
        """Every row."""
        rows = list(self)
        self.finish(rows)
        return rows

    def finish(self, rows: Sequence[Row]) -> None:
        """Refuse bad rows, unless they are skipped, and no rows at all.

        Raises:
            DataError: for the first bad row, with the number of all; when no row is left.
        """
        if self.bad and self.dataset.on_bad_row is OnBadRow.error:
            where, _, what = self.bad[0].partition(": ")
            remedy = f"Mend the row, or dataset.on_bad_row=skip ({len(self.bad)} such rows)."
            raise DataError(f"dataset.path: {where}", f"{what}.", remedy)
        if not rows:
            remedy = "A row is an object, or a line below the heading."
            raise DataError(f"dataset.path={self.source.place}", "it has no rows.", remedy)


def with_labels(shape: Shape, labels: Sequence[str]) -> Shape:
    """The shape of rows whose answers are classes.

    Raises:
        DataError: where conversations or texts are learned, which have no answer to be one.
    """
    if shape.name in ("messages", "text"):
        raise DataError("dataset.labels", f"rows read as {shape.name} are of no class.", "Leave the labels out.")
    return dataclasses.replace(shape, labels=tuple(labels))


def _all_rows(pattern: str, key: str, streaming: bool) -> Iterator[RawRow]:
    for file in find_files(pattern, key):
        if streaming and file.suffix == ".json":
            raise DataError(f"{key}={file}", "a JSON list is read whole: no stream.", "Write JSON Lines.")
        yield from READERS[file.suffix](file)


def _pieces(file: Path, size: int = 2**20) -> Iterator[bytes]:
    """The file's bytes, piece by piece."""
    try:
        with file.open("rb") as opened:
            while piece := opened.read(size):
                yield piece
    except OSError as error:
        raise DataError(f"dataset.path={file}", f"cannot be read: {error.strerror}.", "Look at its rights.") from error


def _lines(file: Path) -> Iterator[str]:
    """The file's lines with their ends, one by one.

    Raises:
        DataError: at the first line that is not UTF-8.
    """
    try:
        with file.open("rb") as opened:
            for number, raw in enumerate(opened, start=1):
                try:
                    yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise _not_utf8(file, number, raw[error.start]) from error
    except OSError as error:
        raise DataError(f"dataset.path={file}", f"cannot be read: {error.strerror}.", "Look at its rights.") from error


def _not_utf8(file: Path, line: int, byte: int) -> DataError:
    return DataError(
        f"dataset.path: {file.name}, line {line}",
        f"byte {byte:#04x} is not UTF-8.",
        f"Write the file anew as UTF-8: iconv -f LATIN1 -t UTF-8 {file.name}",
    )


def _json_lines(file: Path) -> Iterator[RawRow]:
    for number, line in enumerate(_lines(file), start=1):
        if line.strip():
            place = f"{file.name}, line {number}"
            try:
                yield place, json.loads(line.removesuffix("\n"))
            except (ValueError, RecursionError) as error:
                yield place, BadRowError(f"is not JSON ({_why(error)})")


def _json(file: Path) -> Iterator[RawRow]:
    text = "".join(_lines(file))
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        if getattr(error, "msg", "") == "Extra data":  # JSON Lines by another name
            yield from _json_lines(file)
            return
        line = getattr(error, "lineno", 1)
        place = f"dataset.path: {file.name}, line {line}"
        raise DataError(place, f"is not JSON: {_why(error)}.", "Mend the file.") from error
    if isinstance(whole, dict):
        lists = [
            name for name, value in whole.items() if isinstance(value, list) and value and isinstance(value[0], dict)
        ]
        whole = whole[lists[0]] if len(lists) == 1 else [whole]
    if not isinstance(whole, list):
        raise DataError(f"dataset.path: {file.name}", "is no list of objects.", "Write [{…}, {…}], or JSON Lines.")
    for number, row in enumerate(whole, start=1):
        yield f"{file.name}, row {number}", row


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]


def _csv(file: Path, delimiter: str = ",") -> Iterator[RawRow]:
    csv.field_size_limit(LONGEST_FIELD)
    # \r alone ends a line too, in files of old
    lines = (part for line in _lines(file) for part in io.StringIO(line, newline=""))
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            place = f"{file.name}, line {reader.line_num}"
            if None in row:
                yield place, BadRowError(f"has more values than the heading's {len(reader.fieldnames or ())}")
            elif None in row.values():
                yield place, BadRowError(f"has fewer values than the heading's {len(reader.fieldnames or ())}")
            else:
                yield place, row
    except csv.Error as error:
        place = f"dataset.path: {file.name}, line {reader.line_num + 1}"  # the last line that was read was fine
        raise DataError(place, f"is not CSV: {error}.", "Mend it; a quote may be left open.") from error


def _tsv(file: Path) -> Iterator[RawRow]:
    return _csv(file, "\t")


def _parquet(file: Path) -> Iterator[RawRow]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(file, memory_map=True).iter_batches(batch_size=PIECE):
            for row in batch.to_pylist():
                number += 1
                yield f"{file.name}, row {number}", row
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        what = str(error).splitlines()[0].rstrip(".")
        raise DataError(
            f"dataset.path={file.name}", f"is not Parquet that can be read: {what}.", "Write the file anew."
        ) from error


READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}


def _kinds() -> str:
    return ", ".join(READERS)
