"""Files that are replaced in one step: a reader sees the old one or the new one, never half of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside this one to write to; it is on the disk, and then takes this one's place, if the block ends well.

    Raises:
        OSError: when it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step; half a character is written as its number.

    Raises:
        OSError: when it cannot be written.
    """
    with replacing(path) as aside, aside.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        file.write(text)
