"""Read rows from JSON Lines, JSON, CSV, TSV and Parquet files, each with file and line."""

from __future__ import annotations

import csv
import difflib
import glob
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from lorascope.config.schema import DatasetConfig
from lorascope.data.columns import BadRowError
from lorascope.data.rows import READ_ROWS, RawRow, Rows
from lorascope.data.splits import RawSource, read_splits
from lorascope.errors import DataError


@contextmanager
def _opened(file: Path) -> Iterator[io.BufferedReader]:
    try:
        with file.open("rb") as opened:
            yield opened
    except OSError as error:
        raise DataError(
            f"dataset.path={file}", f"cannot be read: {error.strerror}.", "Check file permissions."
        ) from error


def _lines(file: Path) -> Iterator[str]:
    """The file's lines with their ends."""
    with _opened(file) as opened:
        for number, raw in enumerate(opened, start=1):
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise _not_utf8(file, number, raw[error.start], raw) from error


def _not_utf8(file: Path, line: int, byte: int, raw: bytes) -> DataError:
    with _opened(file) as opened:
        start = opened.read(2**20) + raw
    encoding = "UTF-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "LATIN1"
    remedy = f"Convert it to UTF-8: iconv -f {encoding} -t UTF-8 {file.name}"
    if encoding == "LATIN1" and b"\0" in start:
        remedy = f"It does not seem to be text; see: file {file.name}"
    return DataError(f"dataset.path: {file.name}, line {line}", f"byte {byte:#04x} is not UTF-8.", remedy)


def _json_lines(file: Path) -> Iterator[RawRow]:
    for number, line in enumerate(_lines(file), start=1):
        if line.strip():
            place = f"{file.name}, line {number}"
            try:
                yield place, json.loads(line.removesuffix("\n"))
            except (ValueError, RecursionError) as error:
                yield place, BadRowError(f"is not JSON ({_why(error)})")


def _json(file: Path) -> Iterator[RawRow]:
    try:
        found = json.loads("".join(_lines(file)))
    except (ValueError, RecursionError) as error:
        if getattr(error, "msg", "") == "Extra data":  # JSON Lines by another name
            yield from _json_lines(file)
            return
        place = f"dataset.path: {file.name}, line {getattr(error, 'lineno', 1)}"
        raise DataError(place, f"is not JSON: {_why(error)}.", "Correct the file.") from error
    if isinstance(found, dict):  # the list may be named
        lists = [one for one in found.values() if isinstance(one, list) and one and isinstance(one[0], dict)]
        found = lists[0] if len(lists) == 1 else [found]
    if not isinstance(found, list):
        raise DataError(f"dataset.path: {file.name}", "is not a list of objects.", "Write [{…}, {…}], or JSON Lines.")
    for number, row in enumerate(found, start=1):
        yield f"{file.name}, row {number}", row


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]


def _csv(file: Path, delimiter: str = ",") -> Iterator[RawRow]:
    csv.field_size_limit(2**31 - 1)  # Python's own limit is shorter than many documents
    # in old files \r alone ends a line
    lines = (part for line in _lines(file) for part in io.StringIO(line, newline=""))
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    try:
        names = reader.fieldnames or ()
        if twice := [name for name in names if names.count(name) > 1]:
            place = f"dataset.path: {file.name}, line {reader.line_num}"
            raise DataError(place, f"the heading names '{twice[0]}' twice.", "Give each column a name of its own.")
        for row in reader:
            place = f"{file.name}, line {reader.line_num}"
            more = "more" if None in row else "fewer" if None in row.values() else ""
            yield place, BadRowError(f"has {more} values than the heading's {len(names)}") if more else row
    except csv.Error as error:
        place = f"dataset.path: {file.name}, line {reader.line_num + 1}"  # the last line that was read was fine
        raise DataError(place, f"is not CSV: {error}.", "Correct it; a quote may be left open.") from error


def _parquet(file: Path) -> Iterator[RawRow]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(file, memory_map=True)
        names = table.schema_arrow.names
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"Multiple matches for the column '{twice[0]}'")
        for batch in table.iter_batches(batch_size=READ_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield f"{file.name}, row {number}", row
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        what = f"is not Parquet that can be read: {str(error).splitlines()[0].rstrip('.')}."
        raise DataError(f"dataset.path={file.name}", what, "Write it again.") from error


READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": partial(_csv, delimiter="\t"),
    ".parquet": _parquet,
}
KINDS = f"Kinds: {', '.join(READERS)}."


def find_files(pattern: str, key: str = "dataset.path") -> list[Path]:
    """The files of a path, folder or glob, sorted; a DataError for none, or one of an unknown kind."""
    path = Path(os.path.expanduser(pattern))
    if os.path.isdir(path):  # which takes names of every length and kind
        found = sorted(file for file in path.iterdir() if file.suffix in READERS and file.is_file())
    elif os.path.isfile(path):
        found = [path]
    else:
        found = sorted(Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file())
    if not found and os.path.isdir(path):
        raise DataError(f"{key}={pattern}", "no file in it can be read.", KINDS)
    if not found:
        beside = path.parent.glob("*") if os.path.isdir(path.parent) else []
        near = difflib.get_close_matches(path.name, [one.name for one in beside if one.name != path.name])
        hint = f"Did you mean {path.parent / near[0]}?" if near else f"Files are read from {Path.cwd()}."
        raise DataError(f"{key}={pattern}", "there is no such file.", hint)
    for file in found:
        if file.suffix not in READERS:
            raise DataError(f"{key}={file}", f"'{file.suffix}' files cannot be read.", KINDS)
    return found


def content_hash(dataset: DatasetConfig) -> str:
    """SHA-256 over the bytes of all files, so that an edited file makes another run; 16 hex digits."""
    digest = hashlib.sha256()
    for file in _all_files(dataset):
        with _opened(file) as opened:
            hashlib.file_digest(opened, lambda: digest)
    return digest.hexdigest()[:16]


def content_size(dataset: DatasetConfig) -> int:
    """Bytes of all files."""
    return sum(file.stat().st_size for file in _all_files(dataset))


def _all_files(dataset: DatasetConfig) -> Iterator[Path]:
    """The files that are read, or all that a local folder of a hub data set holds."""
    for key, pattern in (("dataset.path", dataset.path), ("dataset.eval_path", dataset.eval_path)):
        if pattern and dataset.source == "file":
            yield from find_files(pattern, key)
        elif pattern and os.path.isdir(pattern):
            yield from sorted(file for file in Path(pattern).rglob("*") if file.is_file())


def load(dataset: DatasetConfig) -> Rows:
    """Both splits of the user's files."""

    def source(pattern: str, key: str) -> RawSource:
        return RawSource(partial(_all_rows, pattern, key, dataset.streaming), pattern, "files of its own")

    assert dataset.path
    main = source(dataset.path, "dataset.path")
    other = source(dataset.eval_path, "dataset.eval_path") if dataset.eval_path else None
    return read_splits(dataset, main, other, dataset.labels, dataset.path)


def _all_rows(pattern: str, key: str, streaming: bool) -> Iterator[RawRow]:
    for file in find_files(pattern, key):
        if streaming and file.suffix == ".json":
            raise DataError(f"{key}={file}", "a JSON list cannot be streamed.", "Write JSON Lines.")
        yield from READERS[file.suffix](file)
