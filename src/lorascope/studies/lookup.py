"""The run that a user means: a folder, a run id or the beginning of a name comes in, its record goes out."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from lorascope.errors import RunError
from lorascope.records.record import FILE, RunRecord, read_record

SHOWN = 6  # candidates that a message lists


def find_run(run: str, runs_dir: str | Path = "runs") -> tuple[RunRecord, Path]:
    """The record and its folder.

    Args:
        run: a run's folder, its run id, or the beginning of its name or id.
        runs_dir: where ids and names are looked for, at any depth.

    Raises:
        RunError: when no run or several fit, or the record is damaged.
    """
    folder = Path(os.path.expanduser(run))
    if folder.name == FILE:
        folder = folder.parent
    if os.path.isfile(folder / FILE):  # which takes words of every length and kind
        return read_record(folder), folder
    root = Path(os.path.expanduser(runs_dir))
    if not os.path.isdir(root):
        raise RunError(run, f"is not a run's folder, and --runs={runs_dir} is not a folder.", "Name one: --runs DIR")
    folders = [path.parent for path in sorted(root.rglob(FILE))]
    found = _fitting(run, folders)
    if len(found) == 1:
        return read_record(found[0]), found[0]
    if found:
        raise RunError(run, f"fits {len(found)} runs: {_some(found)}.", "Give more letters, or a run's folder.")
    near = difflib.get_close_matches(run, [folder.name for folder in folders], n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise RunError(
        run or "RUN",
        f"no run below {runs_dir} has this id or begins so.",
        f"{hint}They are shown by: lorascope list {runs_dir}",
    )


def _fitting(run: str, folders: list[Path]) -> list[Path]:
    """Folders whose name or id is the word, or failing that, begins with it."""
    names = {folder: _names(folder) for folder in folders}
    whole = [folder for folder, known in names.items() if run in known]
    return whole or [folder for folder, known in names.items() if any(name.startswith(run) for name in known)]


def _names(folder: Path) -> tuple[str, ...]:
    try:
        record = read_record(folder)
    except RunError:  # told when it is the one that is meant
        return (folder.name,)
    return record.name, record.run_id, folder.name


def _some(folders: list[Path]) -> str:
    more = f" and {len(folders) - SHOWN} more" if len(folders) > SHOWN else ""
    return ", ".join(str(folder) for folder in folders[:SHOWN]) + more
