"""A file of rows comes in, (place, object) pairs go out, one by one: JSON Lines, JSON, CSV, TSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lorascope.data.shapes import BadRowError
from lorascope.data.spool import PIECE
from lorascope.errors import DataError

LONGEST_FIELD = 2**31 - 1  # characters; Python's own limit is shorter than many a document
RawRow = tuple[str, Any]  # where it stands, and what stands there: an object, or a BadRowError


def pieces(file: Path, size: int = 2**20) -> Iterator[bytes]:
    """The file's bytes, piece by piece.

    Raises:
        DataError: when it cannot be read.
    """
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
                    raise _not_utf8(file, number, raw[error.start], raw) from error
    except OSError as error:
        raise DataError(f"dataset.path={file}", f"cannot be read: {error.strerror}.", "Look at its rights.") from error


def _not_utf8(file: Path, line: int, byte: int, raw: bytes) -> DataError:
    encoding = _encoding(next(pieces(file), b"") + raw)
    remedy = f"Write the file anew as UTF-8: iconv -f {encoding} -t UTF-8 {file.name}"
    return DataError(
        f"dataset.path: {file.name}, line {line}",
        f"byte {byte:#04x} is not UTF-8.",
        remedy if encoding else f"Look what it holds, it seems to be no text: file {file.name}",
    )


def _encoding(raw: bytes) -> str:
    """What text that is not UTF-8 was probably written in; nothing where it is no text, such as an archive."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    return "" if b"\0" in raw else "LATIN1"


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
        names = reader.fieldnames or ()
        if twice := [name for name in names if names.count(name) > 1]:
            place = f"dataset.path: {file.name}, line {reader.line_num}"
            raise DataError(place, f"the heading names '{twice[0]}' twice.", "Give each column a name of its own.")
        for row in reader:
            place = f"{file.name}, line {reader.line_num}"
            if None in row:
                yield place, BadRowError(f"has more values than the heading's {len(names)}")
            elif None in row.values():
                yield place, BadRowError(f"has fewer values than the heading's {len(names)}")
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
        table = pyarrow.parquet.ParquetFile(file, memory_map=True)
        names = table.schema_arrow.names
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"Multiple matches for the column '{twice[0]}'")
        for batch in table.iter_batches(batch_size=PIECE):
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


def kinds() -> str:
    """The endings of files that are read."""
    return ", ".join(READERS)
