"""Rows out of the user's own files: JSON Lines, JSON, CSV, TSV and Parquet; every row knows its file and number."""

from __future__ import annotations

import difflib
import glob
import hashlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lorascope.config import DatasetConfig
from lorascope.data.halves import Source, read_halves
from lorascope.data.readers import READERS, RawRow, kinds, pieces
from lorascope.data.rows import Rows
from lorascope.data.shapes import classes
from lorascope.data.split import split_words
from lorascope.errors import DataError


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
    if not found and os.path.isdir(path):
        raise DataError(f"{key}={pattern}", "no file in it is of a kind that is read.", f"Kinds: {kinds()}.")
    if not found:
        beside = path.parent.glob("*") if os.path.isdir(path.parent) else []
        near = difflib.get_close_matches(path.name, [one.name for one in beside if one.name != path.name])
        hint = f"Did you mean {path.parent / near[0]}?" if near else f"Files are read from {Path.cwd()}."
        raise DataError(f"{key}={pattern}", "there is no such file.", hint)
    for file in found:
        if file.suffix not in READERS:
            raise DataError(f"{key}={file}", f"'{file.suffix}' is no kind of file that is read.", f"Kinds: {kinds()}.")
    return found


def content_hash(dataset: DatasetConfig) -> str:
    """SHA-256 over the bytes of all files, so that an edited file makes another run; 16 hex digits.

    Raises:
        DataError: when a file is missing or cannot be read.
    """
    digest = hashlib.sha256()
    for file in _all_files(dataset):
        for piece in pieces(file):
            digest.update(piece)
    return digest.hexdigest()[:16]


def content_size(dataset: DatasetConfig) -> int:
    """Bytes of all files as they lie there.

    Raises:
        DataError: when a file is missing.
    """
    return sum(file.stat().st_size for file in _all_files(dataset))


def _all_files(dataset: DatasetConfig) -> Iterator[Path]:
    for key, pattern in (("dataset.path", dataset.path), ("dataset.eval_path", dataset.eval_path)):
        yield from _parts(pattern, key, dataset.source) if pattern else []


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


def _all_rows(pattern: str, key: str, streaming: bool) -> Iterator[RawRow]:
    for file in find_files(pattern, key):
        if streaming and file.suffix == ".json":
            raise DataError(f"{key}={file}", "a JSON list is read whole: no stream.", "Write JSON Lines.")
        yield from READERS[file.suffix](file)
