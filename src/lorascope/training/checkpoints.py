"""Checkpoints that are complete or absent: a manifest with the files' hashes comes last, then a rename."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorascope.errors import RunError

MANIFEST = "manifest.json"
ASIDE = ".writing-"
MARGIN = 64 * 2**20  # bytes that a checkpoint leaves free: records and logs are written to the same disk


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    path: Path
    step: int
    meta: dict[str, Any]  # plain values, as given to `write`


@dataclass(frozen=True)
class Saving:
    """Where checkpoints are written, the meta values of each, and the one to resume from."""

    folder: Path
    latest: Checkpoint | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


def write(folder: Path, step: int, fill: Callable[[Path], None], meta: dict[str, Any], size: int = 0) -> Checkpoint:
    """Write a checkpoint and make it visible in one step.

    Args:
        step: the last one that was done.
        fill: writes the files into the folder it is given.
        meta: plain values for the manifest.
        size: bytes that it will need; they must be free before anything is written.

    Raises:
        OSError: when it cannot be written; nothing of it is left, and older ones stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size and free < size + MARGIN:
        raise OSError(28, f"{free:,} bytes are free, a checkpoint takes {size:,}", str(folder))
    aside, place = folder / f"{ASIDE}{step}", folder / f"checkpoint-{step}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        fill(aside)
        files = {}
        for path in sorted(aside.rglob("*")):
            if path.is_file():
                _flush(path)
                files[str(path.relative_to(aside))] = {"bytes": path.stat().st_size, "sha256": _hash(path)}
        (aside / MANIFEST).write_text(json.dumps({"step": step, "meta": meta, "files": files}, indent=1) + "\n")
        _flush(aside / MANIFEST)
        _flush(aside)
        shutil.rmtree(place, ignore_errors=True)
        aside.rename(place)
        _flush(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return Checkpoint(place, step, meta)


def newest(
    folder: Path, warn: Callable[[str], None], check: Callable[[Checkpoint], object] = lambda checkpoint: None
) -> Checkpoint | None:
    """The latest complete checkpoint; what was being written is removed.

    Args:
        warn: called with the reason for each one that is passed over.
        check: raises RunError for a complete one that cannot be resumed from.
    """
    for aside in folder.glob(f"{ASIDE}*"):
        shutil.rmtree(aside, ignore_errors=True)
    for step, path in reversed(_listed(folder)):
        try:
            checkpoint = read(path)
            check(checkpoint)
            return checkpoint
        except RunError as error:
            warn(f"checkpoint of step {step} passed over: {error.what}")
    return None


def read(path: Path) -> Checkpoint:
    """A checkpoint, after a check of every file against the manifest.

    Raises:
        RunError: when it is damaged or incomplete.
    """
    remedy = "An earlier one is taken, if there is one."
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        step, meta, files = manifest["step"], manifest["meta"], manifest["files"]
        if not (isinstance(step, int) and isinstance(meta, dict) and isinstance(files, dict)):
            raise TypeError(manifest)
    except FileNotFoundError as error:
        raise RunError(str(path), f"{MANIFEST} is missing.", remedy) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(str(path), f"{MANIFEST} is damaged.", remedy) from error
    if path.name != f"checkpoint-{step}":
        raise RunError(str(path), f"{MANIFEST} is of step {step}.", remedy)
    for name, entry in files.items():
        file, name = path / name, name[:100]
        try:
            if not file.is_file():
                raise RunError(str(path), f"{name} is missing.", remedy)
            if file.stat().st_size != entry["bytes"] or _hash(file) != entry["sha256"]:
                raise RunError(str(path), f"{name} is not what was written.", remedy)
        except (OSError, KeyError, TypeError) as error:
            raise RunError(str(path), f"{name} cannot be read.", remedy) from error
    return Checkpoint(path, step, meta)


def thin_out(folder: Path, keep: int, best: int | None = None) -> None:
    """Remove the oldest checkpoints, down to `keep`; the one of step `best` stays."""
    listed = [(step, path) for step, path in _listed(folder) if step != best]
    for _, path in listed[: max(len(listed) - keep, 0)]:
        # invisible first, so that a kill leaves no incomplete one
        gone = path.with_name(f"{ASIDE}gone-{path.name}")
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _listed(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders of all checkpoints by name, oldest first."""
    return sorted(
        (int(name[1]), path)
        for path in folder.glob("checkpoint-*")
        if (name := re.fullmatch(r"checkpoint-(\d+)", path.name))
    )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Write a file to the disk; or a folder, so that its entries survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
