"""Readers of JSON Lines, JSON, CSV, TSV, Parquet, Arrow and plain text, compressed or not, each row with its place."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from lorascope.config.schema import Documents
from lorascope.data.messages import BadRowError
from lorascope.data.rows import READ_ROWS, RawRow
from lorascope.errors import DataError


def _open_zstd(file: Path) -> Any:
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(file), compression="zstd"))


COMPRESSED: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zstd,
}  # fmt: skip


@contextmanager
def opened(file: Path, *, decompress: bool = True) -> Iterator[Any]:
    """A file's bytes, decompressed by its name.

    Raises:
        DataError: when it cannot be read, or is not what its name says.
    """
    unpack = COMPRESSED.get(file.suffix.lower()) if decompress else None
    try:
        with unpack(file) if unpack else file.open("rb") as stream:
            yield stream
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        if unpack and not isinstance(error, PermissionError | FileNotFoundError):
            what = f"is cut off or not {file.suffix.lower()[1:]}: {str(error).splitlines()[0]}."
            raise DataError(f"dataset.path={file}", what, "Copy or compress it again.") from error
        why = getattr(error, "strerror", None) or error
        raise DataError(f"dataset.path={file}", f"cannot be read: {why}.", "Check file permissions.") from error


def ending_of(file: Path) -> str:
    """The file's ending in small letters, without that of its compression."""
    return Path(file.stem).suffix.lower() if file.suffix.lower() in COMPRESSED else file.suffix.lower()


def _lines(file: Path) -> Iterator[str]:
    """The file's lines with their ends."""
    with opened(file) as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise _not_utf8(file, number, raw[error.start], raw) from error


def _not_utf8(file: Path, line: int, byte: int, raw: bytes) -> DataError:
    with opened(file) as stream:
        start = stream.read(2**20) + raw
    encoding = "UTF-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "LATIN1"
    remedy = f"Convert it to UTF-8: iconv -f {encoding} -t UTF-8 {file.name}"
    if encoding == "LATIN1" and b"\0" in start:
        remedy = f"It does not seem to be text; see: file {file.name}"
    return DataError(f"dataset.path: {file.name}, line {line}", f"byte {byte:#04x} is not UTF-8.", remedy)


def _json_lines(file: Path) -> Iterator[RawRow]:
    first = True
    for number, line in enumerate(_lines(file), start=1):
        if line.strip():
            place = f"{file.name}, line {number}"
            try:
                yield place, json.loads(line.removesuffix("\n"))
            except (ValueError, RecursionError) as error:
                if getattr(error, "msg", "") == "Extra data" and (several := _objects_on(line)):
                    yield place, BadRowError(f"holds {several} objects, and JSON Lines has one on each line")
                    continue
                if first:
                    _refuse_other_json(file)
                yield place, BadRowError(f"is not JSON ({_why(error)})")
            first = False


def _objects_on(text: str) -> int:
    """How many JSON objects stand one behind another; 0 where something else is among them."""
    decoder, count, place = json.JSONDecoder(), 0, 0
    while text := text[place:].lstrip(" \t\r\n,"):
        try:
            found, place = decoder.raw_decode(text)
        except (ValueError, RecursionError):
            return 0
        if not isinstance(found, dict):
            return 0
        count += 1
    return count


SEEN = 2**20  # bytes by which a file that begins with no whole object is named as what it is


def _refuse_other_json(file: Path) -> None:
    """Raise a DataError for JSON that is laid out in another way; return for what is no JSON."""
    with opened(file) as stream:
        text = stream.read(SEEN).decode("utf-8-sig", errors="replace").lstrip()
    place, lines = f"dataset.path: {file.name}", file.name.removesuffix(file.suffix)
    if text.startswith("["):
        what = "is one JSON list, not JSON Lines."
        raise DataError(place, what, f"Call it {lines}.json, or: jq -c '.[]' {file.name} > {lines}.lines.jsonl")
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return
    if "\n" in text[:end]:
        what = "holds JSON objects of several lines each (pretty-printed), and JSON Lines has one on each line."
        raise DataError(place, what, f"Write each on one line: jq -c . {file.name} > {lines}.lines.jsonl")


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
        one_row = len(lists) != 1 or {"role", "from"} & lists[0][0].keys()  # a list of messages is not one of rows
        found = [found] if one_row else lists[0]
    if not isinstance(found, list):
        raise DataError(f"dataset.path: {file.name}", "is not a list of objects.", "Write [{…}, {…}], or JSON Lines.")
    for number, row in enumerate(found, start=1):
        yield f"{file.name}, row {number}", row


def _document(file: Path) -> Iterator[RawRow]:
    yield file.name, {"text": "".join(_lines(file)).strip()}


def _paragraphs(file: Path) -> Iterator[RawRow]:
    """What stands between blank lines."""
    read: list[str] = []
    first = 1
    for number, line in enumerate(chain(_lines(file), [""]), start=1):
        if line.strip():
            first = first if read else number
            read.append(line)
        elif read:
            yield f"{file.name}, line {first}", {"text": "".join(read).strip()}
            read = []


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
    import pyarrow.parquet

    source = seekable(file)
    with _arrow_errors(file, "Parquet"):
        table = pyarrow.parquet.ParquetFile(source)
        names = table.schema_arrow.names
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"Multiple matches for the column '{twice[0]}'")
        yield from _batch_rows(file, table.iter_batches(batch_size=READ_ROWS))


def _arrow(file: Path) -> Iterator[RawRow]:
    source = seekable(file)
    with _arrow_errors(file, "Arrow"):
        yield from _batch_rows(file, _open_arrow(source))


@contextmanager
def _arrow_errors(file: Path, kind: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        what = f"is not {kind} that can be read: {str(error).splitlines()[0].rstrip('.')}."
        raise DataError(f"dataset.path={file.name}", what, "Write it again.") from error


def seekable(file: Path) -> Any:
    """What pyarrow may seek in: the file itself, or all of what is compressed."""
    import pyarrow

    with opened(file) as stream:
        packed = file.suffix.lower() in COMPRESSED
        return pyarrow.BufferReader(stream.read()) if packed else pyarrow.OSFile(str(file))


def _batch_rows(file: Path, batches: Iterable[Any]) -> Iterator[RawRow]:
    rows = chain.from_iterable(batch.to_pylist() for batch in batches)
    for number, row in enumerate(rows, start=1):
        yield f"{file.name}, row {number}", without_nested_nulls(row)


def without_nested_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without the keys that Arrow adds to objects because those of other rows have them; they are null.

    The columns themselves stay.
    """

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: cleaned(one) for name, one in value.items() if one is not None}
        return [cleaned(one) for one in value] if isinstance(value, list) else value

    return {name: cleaned(value) for name, value in row.items()}


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
    ".txt": _document,
    ".md": _document,
}
PLAIN = (".txt", ".md")
KINDS = f"Kinds: {', '.join(READERS)}; each of them also with {', '.join(COMPRESSED)}."


def read_file(file: Path, documents: Documents) -> Iterator[RawRow]:
    """The raw rows of one file.

    Args:
        documents: how plain text is divided.

    Raises:
        DataError: when it is not what its name says.
    """
    divided = ending_of(file) in PLAIN and documents is Documents.paragraph
    return _paragraphs(file) if divided else READERS[ending_of(file)](file)
