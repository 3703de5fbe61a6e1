"""lorascope init: a folder of one's own, from which a study of one's own is an edit away."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
from pathlib import Path

from lorascope.cli import Command, add_quiet
from lorascope.console import output, result
from lorascope.errors import ConfigError

STARTER = Path(__file__).with_name("starter")
NAMES = 3  # of what is in a folder, that a message lists
# what leads to a verdict, typed in the folder
COMMANDS = (
    "lorascope preview --config-dir . dataset=mine",
    "lorascope train --config-dir . experiment=mine",
    "lorascope ship runs/mine --policy ship/mine.yaml",
)


def write_starter(folder: Path) -> list[Path]:
    """Write the folder's files, and return them.

    Raises:
        ConfigError: when the folder holds anything, or cannot be written.
    """
    place = f"init {folder}"
    try:
        if os.path.lexists(folder) and not folder.is_dir():
            raise ConfigError(place, "is a file, not a folder.", "Name a new folder.")
        if folder.is_dir() and (held := sorted(path.name for path in folder.iterdir())):
            some = ", ".join(held[:NAMES]) + (" and more" if len(held) > NAMES else "")
            raise ConfigError(place, f"is not empty: it holds {some}.", "Name a new folder; nothing was written.")
        shutil.copytree(STARTER, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
    except OSError as error:
        why = f"cannot be written: {error.strerror or error}."
        raise ConfigError(place, why, "Name a folder that can be written.") from error
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("folder", metavar="DIR", help="a new or empty folder")
    add_quiet(parser, "the folder")
    parser.add_argument("--json", action="store_true", help="print folder, files and the next commands as JSON")


def _run_init(options: argparse.Namespace) -> None:
    """Write the files, and say what comes next."""
    folder = Path(options.folder).expanduser()
    files = [path.relative_to(folder).as_posix() for path in write_starter(folder)]
    result(folder, lambda: {"folder": str(folder), "files": files, "commands": list(COMMANDS)})
    if output():
        return
    print(f"{folder}: {', '.join(files)}\n")
    print("Three commands lead to a verdict, on a CPU in minutes:")
    for command in (*([f"cd {shlex.quote(str(folder))}"] if folder.resolve() != Path.cwd() else []), *COMMANDS):
        print(f"  {command}")


INIT = Command(
    "init",
    "write a folder of your own: data, a strategy, a study and a policy that work, to be edited.",
    "lorascope init my-study",
    _init_arguments,
    _run_init,
)
