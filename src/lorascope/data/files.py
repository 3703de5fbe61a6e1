"""Read rows from JSON Lines, JSON, CSV, TSV, Parquet and Arrow files, each with file and line."""

from __future__ import annotations

import csv
import difflib
import glob
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lorascope.config.schema import DatasetConfig
from lorascope.data.columns import BadRowError, column_settings, infer_format
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
    read: list[str] = []  # the lines of the row that is read

    def lines() -> Iterator[str]:
        for line in _lines(file):
            for part in io.StringIO(line, newline=""):  # in old files \r alone ends a line
                read.append(part)
                yield part

    reader = csv.DictReader(lines(), delimiter=delimiter, strict=True)
    quotes = _TabQuotes(file) if delimiter == "\t" else None
    try:
        names = reader.fieldnames or ()
        if twice := [name for name in names if names.count(name) > 1]:
            place = f"dataset.path: {file.name}, line {reader.line_num}"
            raise DataError(place, f"the heading names '{twice[0]}' twice.", "Give each column a name of its own.")
        read.clear()
        for row in reader:
            first = reader.line_num - len(read) + 1
            _check_lines(file, first, read, delimiter, len(names))
            if quotes:
                quotes.check(reader.line_num, read)
            read.clear()
            place = f"{file.name}, line {reader.line_num}"
            more = "more" if None in row else "fewer" if None in row.values() else ""
            yield place, BadRowError(f"has {more} values than the heading's {len(names)}") if more else row
    except csv.Error as error:
        place = f"dataset.path: {file.name}, line {reader.line_num + 1}"  # the last line that was read was fine
        raise DataError(place, f"is not CSV: {error}.", "Correct it; a quote may be left open.") from error


QUOTES = 'Write a quote of the text itself as "" inside quotes, or write JSON Lines.'


def _check_lines(file: Path, first: int, lines: Sequence[str], delimiter: str, columns: int) -> None:
    """Refuse a row of several lines that are each a whole row: a quote of the text has glued them.

    In text that a comma divides, a space follows it.
    """
    lines = [line for line in lines if line.strip()]
    glued = all(line.count(delimiter) == columns - 1 for line in lines)
    if len(lines) > 1 and columns > 1 and glued and not any(f"{delimiter} " in line for line in lines):
        raise DataError(
            f"dataset.path: {file.name}, line {first}",
            f"a quote is opened there and closed {len(lines) - 1} lines below, and each of these lines has "
            f"{columns} values of its own.",
            QUOTES,
        )


class _TabQuotes:
    """Refuse a TSV file in which some values of a column stand in quotes for no reason: the quotes may be text.

    Whatever writes quotes around a value writes them where they are needed, or around every text of the column.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.quoted: dict[int, int] = {}  # column -> line
        self.bare: set[int] = set()

    def check(self, number: int, lines: Sequence[str]) -> None:
        """Look at the lines of one row; blank ones may stand before it."""
        lines = [line for line in lines if line.strip()]
        for column, value in enumerate(lines[0].rstrip("\r\n").split("\t") if len(lines) == 1 else ()):
            if re.fullmatch('"[^"]*"', value):
                self.quoted.setdefault(column, number)
            elif value not in ("", "NA") and not value.startswith('"'):
                self.bare.add(column)
        for column in self.quoted.keys() & self.bare:
            place = f"dataset.path: {self.file.name}, line {self.quoted[column]}"
            raise DataError(place, "a value stands in quotes, and others of its column do not.", QUOTES)


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


def _arrow(file: Path) -> Iterator[RawRow]:
    import pyarrow

    number = 0
    try:
        with pyarrow.memory_map(str(file)) as source:
            for batch in _open_arrow(source):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file.name}, row {number}", row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        what = f"is not Arrow that can be read: {str(error).splitlines()[0].rstrip('.')}."
        raise DataError(f"dataset.path={file.name}", what, "Write it again.") from error


def _open_arrow(source: Any) -> Any:
    """The batches of an Arrow stream, which datasets writes, or of an Arrow file."""
    import pyarrow

    try:
        return pyarrow.ipc.open_stream(source)
    except pyarrow.ArrowInvalid:
        reader = pyarrow.ipc.open_file(source)
        return (reader.get_batch(index) for index in range(reader.num_record_batches))


READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": partial(_csv, delimiter="\t"),
    ".parquet": _parquet,
    ".arrow": _arrow,
}
KINDS = f"Kinds: {', '.join(READERS)}."


def _kind(file: Path) -> str:
    return file.suffix.lower()


def find_files(pattern: str, key: str = "dataset.path") -> list[Path]:
    """The files of a path, folder or glob, sorted.

    Raises:
        DataError: for none, for one of an unknown kind, and for files that are the train and the test part of a set.
    """
    path = Path(os.path.expanduser(pattern))
    if os.path.isdir(path):  # which takes names of every length and kind
        found = _saved(path, key) or sorted(
            file for file in path.iterdir() if _kind(file) in READERS and file.is_file()
        )
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
        if _kind(file) not in READERS:
            raise DataError(f"{key}={file}", f"'{file.suffix}' files cannot be read.", KINDS)
    _check_parts(pattern, found, key)
    return found


def _saved(folder: Path, key: str) -> list[Path]:
    """The files of a folder that `save_to_disk` of datasets wrote, in their order; none for another folder."""
    if (folder / "dataset_dict.json").is_file():
        names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        paths = f"{key}={folder / names[0]}" + (f" dataset.eval_path={folder / names[-1]}" if names[1:] else "")
        raise DataError(f"{key}={folder}", f"it holds the parts {', '.join(names)}.", f"Name them: {paths}")
    if not (folder / "state.json").is_file() or not (folder / "dataset_info.json").is_file():
        return []
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return [folder / one["filename"] for one in state["_data_files"]]


# names of parts, as datasets reads them from the names of files and folders
PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation", "heldout"),
}


def _check_parts(pattern: str, files: Sequence[Path], key: str) -> None:
    """Refuse files of which some are, by their names, what others are to be evaluated on."""
    if len(files) < 2:
        return
    above = Path(os.path.commonpath([file.parent for file in files]))
    parts: dict[str, list[Path]] = {}
    for file in files:
        words = re.split(r"[^a-z]+", str(file.relative_to(above).with_suffix("")).lower())
        parts.setdefault(next((part for part, names in PARTS.items() if {*names} & {*words}), "other"), []).append(file)
    held_out = [part for part in ("validation", "test") if part in parts]
    if not held_out or len(parts) == 1:
        return
    main = next(part for part in ("train", "other", *held_out) if part in parts)
    listed = "; ".join(f"{part}: {', '.join(file.name for file in those[:3])}" for part, those in parts.items())
    first, second = (_glob(parts[part]) for part in (main, held_out[0]))
    remedy = f"Name them: {key}={first} dataset.eval_path={second}"
    raise DataError(f"{key}={pattern}", f"it holds parts by name ({listed}), which are not read as one.", remedy)


def _glob(files: Sequence[Path]) -> str:
    """A pattern for these files, or the only one."""
    if len(files) == 1:
        return str(files[0])
    start = os.path.commonprefix([str(file) for file in files])  # noqa: RUF071 (a pattern, not a folder)
    return f"'{start}*'"


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
        elif pattern and (folder := Path(os.path.expanduser(pattern))).is_dir():
            yield from sorted(file for file in folder.rglob("*") if file.is_file())


def load(dataset: DatasetConfig) -> Rows:
    """Both splits of the user's files."""

    def source(pattern: str, key: str) -> RawSource:
        return RawSource(partial(_all_rows, pattern, key, dataset.streaming), pattern, "files of its own")

    assert dataset.path
    main = source(dataset.path, "dataset.path")
    other = source(dataset.eval_path, "dataset.eval_path") if dataset.eval_path else None
    return read_splits(dataset, main, other, dataset.labels or _stored_classes(dataset), dataset.path)


def _stored_classes(dataset: DatasetConfig) -> list[str]:
    """The names of the classes that datasets writes into Arrow and Parquet files; none where there are none."""
    import pyarrow
    import pyarrow.parquet

    file = find_files(str(dataset.path))[0]
    try:
        if _kind(file) == ".parquet":
            schema = pyarrow.parquet.read_schema(file)
        elif _kind(file) == ".arrow":
            with pyarrow.memory_map(str(file)) as source:
                schema = pyarrow.ipc.open_stream(source).schema
        else:
            return []
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (pyarrow.ArrowException, OSError, ValueError):  # the reader says what is wrong with the file
        return []
    features = about.get("info", {}).get("features") or {}
    if not any(isinstance(one, dict) and one.get("names") for one in features.values()):
        return []
    answer = infer_format(set(schema.names), column_settings(dataset), str(dataset.path)).answer
    return list((features.get(answer) or {}).get("names") or ())


def _all_rows(pattern: str, key: str, streaming: bool) -> Iterator[RawRow]:
    for file in find_files(pattern, key):
        if streaming and _kind(file) == ".json":
            raise DataError(f"{key}={file}", "a JSON list cannot be streamed.", "Write JSON Lines.")
        yield from READERS[_kind(file)](file)
