"""Files that are whole or not there, and JSON files that say which version wrote them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorascope.errors import RunError
from lorascope.records.kinds import check_kinds


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one step, on the disk before its name is; half a character is written as its number.

    Raises:
        OSError: when it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def read_object(path: Path, latest: int, kinds: Mapping[str, str]) -> dict[str, Any]:
    """A JSON file's object.

    Args:
        path: of the file.
        latest: the schema version that this code knows.
        kinds: of the values at dotted places, as `check_kinds` takes them.

    Raises:
        RunError: for a later version.
        ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError: when it is damaged.
        OSError: when it cannot be read.
    """
    raw = json.loads(path.read_text(encoding="utf-8"))
    version = int(raw["schema_version"])
    if version > latest:
        raise RunError(str(path), f"has schema version {version}.", f"This lorascope reads up to {latest}.")
    check_kinds(raw, kinds)
    json.dumps(raw, ensure_ascii=False).encode("utf-8")  # half a character, which JSON can write, cannot be shown
    return raw


@contextmanager
def told_as_damaged(path: Path, missing: str, damaged: str) -> Iterator[None]:
    """What reading a file can raise becomes a RunError.

    Args:
        path: its place.
        missing: the remedy where it cannot be read.
        damaged: the remedy where it holds something else.
    """
    try:
        yield
    except OSError as error:
        raise RunError(str(path), f"cannot be read: {error.strerror}.", missing) from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        what = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
        raise RunError(str(path), f"is damaged: {what.rstrip('.')}.", damaged) from error
