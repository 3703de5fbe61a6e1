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
from pathlib import Path
from typing import Any

from lorascope.config import DatasetConfig, OnBadRow
from lorascope.data.rows import Row, Rows
from lorascope.data.shapes import BadRowError, Said, Shape, classes, find_shape, to_row
from lorascope.data.split import split_rows, split_words
from lorascope.data.template import read_template
from lorascope.errors import DataError

LONGEST_FIELD = 2**31 - 1  # characters; Python's own limit is shorter than many a document
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
            digest.update(_bytes(file))
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
    rows, shape, skipped = read_rows(
        lambda: _all_rows(dataset.path or "", "dataset.path"), dataset, said(dataset), dataset.path, labels
    )
    if dataset.eval_path:
        place = dataset.eval_path
        evaluation, _, more = read_rows(
            lambda: _all_rows(place, "dataset.eval_path"), dataset, said(dataset, evaluation=True), place, labels
        )
        skipped, split = skipped + more, "files of its own"
        return Rows(tuple(rows), tuple(evaluation), dataset.path, shape, tuple(skipped), labels=labels, split=split)
    train, held_out = split_rows(rows, dataset.eval_share, by_group=dataset.group is not None)
    return Rows(train, held_out, dataset.path, shape, tuple(skipped), labels=labels, split=split_words(dataset))


def said(dataset: DatasetConfig, *, evaluation: bool = False) -> Said:
    """What the settings say of the columns of a half."""
    template = read_template(dataset.prompt) if dataset.prompt else None
    if evaluation and dataset.eval_columns:
        return Said(dataset.eval_columns, template, "dataset.eval_columns")
    return Said(dataset.columns, template)


def read_rows(
    raw_rows: Callable[[], Iterator[RawRow]],
    dataset: DatasetConfig,
    said: Said,
    place: str,
    labels: Sequence[str] = (),
) -> tuple[list[Row], str, list[str]]:
    """Checked rows, the name of their shape, and a line for each that was skipped.

    Args:
        raw_rows: gives (place, object) pairs, anew at each call.
        dataset: its group, system and on_bad_row decide.
        said: of the columns.
        place: file or hub id, for errors about the whole.
        labels: the answers' classes, where there are any.

    Raises:
        DataError: for the first bad row, unless they are skipped; when no row is left.
    """
    present: set[str] = set()
    for _, raw in raw_rows():
        if isinstance(raw, dict):
            present |= raw.keys()
    shape = find_shape(present, said, place) if present else None
    if shape and labels:
        shape = with_labels(shape, labels)
    # a group matters where rows are split, and an eval half with columns of its own is not
    group = None if said.key == "dataset.eval_columns" else dataset.group
    if group and shape and group not in present:
        raise DataError(
            f"dataset.group={group}", f"{place} has no such column.", f"It has: {', '.join(sorted(present))}."
        )
    rows: list[Row] = []
    bad: list[str] = []
    for where, raw in raw_rows():
        try:
            if isinstance(raw, BadRowError):
                raise raw
            if not isinstance(raw, dict) or shape is None:
                raise BadRowError("is not an object with named values")
            rows.append(to_row(raw, shape, dataset.system, group, where))
        except BadRowError as error:
            bad.append(f"{where}: {error}")
    if bad and dataset.on_bad_row is OnBadRow.error:
        where, _, what = bad[0].partition(": ")
        raise DataError(
            f"dataset.path: {where}", f"{what}.", f"Mend the row, or dataset.on_bad_row=skip ({len(bad)} such rows)."
        )
    if not rows:
        raise DataError(f"dataset.path={place}", "it has no rows.", "A row is an object, or a line below the heading.")
    return rows, shape.name if shape else "", bad


def with_labels(shape: Shape, labels: Sequence[str]) -> Shape:
    """The shape of rows whose answers are classes.

    Raises:
        DataError: where conversations or texts are learned, which have no answer to be one.
    """
    if shape.name in ("messages", "text"):
        raise DataError("dataset.labels", f"rows read as {shape.name} are of no class.", "Leave the labels out.")
    return dataclasses.replace(shape, labels=tuple(labels))


def _all_rows(pattern: str, key: str) -> Iterator[RawRow]:
    for file in find_files(pattern, key):
        yield from READERS[file.suffix](file)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"dataset.path={file}", f"cannot be read: {error.strerror}.", "Look at its rights.") from error


def _text(file: Path) -> str:
    """The file's text.

    Raises:
        DataError: naming the first line that is not UTF-8.
    """
    raw = _bytes(file)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"dataset.path: {file.name}, line {line}",
            f"byte {raw[error.start]:#04x} is not UTF-8.",
            f"Write the file anew as UTF-8: iconv -f LATIN1 -t UTF-8 {file.name}",
        ) from error


def _json_lines(file: Path) -> Iterator[RawRow]:
    for number, line in enumerate(_text(file).split("\n"), start=1):
        if line.strip():
            place = f"{file.name}, line {number}"
            try:
                yield place, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield place, BadRowError(f"is not JSON ({_why(error)})")


def _json(file: Path) -> Iterator[RawRow]:
    text = _text(file)
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
    reader = csv.DictReader(io.StringIO(_text(file), newline=""), delimiter=delimiter, strict=True)
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

    try:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        what = str(error).splitlines()[0].rstrip(".")
        raise DataError(
            f"dataset.path={file.name}", f"is not Parquet that can be read: {what}.", "Write the file anew."
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"{file.name}, row {number}", row


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
