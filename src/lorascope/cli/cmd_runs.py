"""lorascope list, compare and sync: the runs below a folder."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lorascope.cli import Command, add_quiet, add_runs_dir
from lorascope.console import JSON, QUIET, output, result
from lorascope.errors import ConfigError, RunError, complain
from lorascope.records.record import FILE, RunRecord, Status, read_record

if TYPE_CHECKING:
    from lorascope.trackers.wandb_sync import Outcome


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


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("folder", metavar="DIR", nargs="?", default="runs", help="a folder above runs (default: runs)")
    parser.add_argument(
        "--status",
        metavar="STATUS",
        action="append",
        choices=[str(status) for status in Status],
        help=f"only such runs, may be repeated: {', '.join(Status)}",
    )
    add_quiet(parser, "the runs' names")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def _run_list(options: argparse.Namespace) -> None:
    """Show the lines."""
    from lorascope.console import console
    from lorascope.records.store import load_runs
    from lorascope.reports.run_table import plain
    from lorascope.reports.text_tables import newest_first, show_list

    records, damaged = load_runs(options.folder)
    for error in damaged:
        complain(error)
    rows = newest_first([record for record in records if str(record.status) in (options.status or [record.status])])
    if options.json:
        print(json.dumps(plain(rows), indent=1))
    elif options.quiet:
        for row in rows:
            print(row["name"])
    elif not records:
        print(f"No run is recorded below {options.folder}. Make one: python train.py")
    else:
        show_list(console(), rows, len(records))


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    text = "a run's folder, its run id, or the beginning of its name"
    parser.add_argument("first", metavar="RUN", help=text)
    parser.add_argument("second", metavar="RUN", help="the run to compare it with")
    add_runs_dir(parser)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def _run_compare(options: argparse.Namespace) -> None:
    """Show the differences."""
    from lorascope.console import console
    from lorascope.reports.comparison import compare_runs, show_comparison
    from lorascope.reports.run_table import plain

    first, folder = find_run(options.first, options.runs)
    second, other = find_run(options.second, options.runs)
    found = compare_runs(first, second)
    if options.json:
        print(json.dumps(plain(dataclasses.asdict(found)), indent=1))
        return
    if folder.resolve() == other.resolve():
        print("Both names mean the same run.")
    show_comparison(console(), found)


WORDS = {"nothing": "nothing to send", "running": "still running", "unsent": "to send"}
REMEDY = "Run: wandb login, or set WANDB_API_KEY. Then repeat this command."


def _sync_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    text = "folders of runs, or folders above them (default: runs)"
    parser.add_argument("folders", metavar="DIR", nargs="*", default=["runs"], help=text)
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=300,
        help="for each run (default: 300)",
    )
    add_quiet(parser, "what was not sent,")
    parser.add_argument("--json", action="store_true", help="print an object for each run")


def _run_sync(options: argparse.Namespace) -> None:
    """Send, with a line for each run; exit with 1 if one was not sent.

    Raises:
        ConfigError: when something is to be sent and no key is configured.
    """
    from lorascope.records.study_record import FILE
    from lorascope.reports.study_report import replay_study
    from lorascope.trackers.wandb_account import has_key
    from lorascope.trackers.wandb_sync import look, replay_run, runs_below, send

    folders = runs_below(options.folders)
    if not folders:
        if not output():
            print(f"No W&B run is kept below {', '.join(options.folders)}.")
        return
    if options.dry_run:
        for folder in folders:
            _tell(look(folder))
        return
    if not has_key() and any(look(folder).state == "unsent" for folder in folders):
        raise ConfigError("WANDB_API_KEY", "no key is configured, so nothing can be sent to W&B.", REMEDY)
    failures: list[str] = []
    for folder in folders:
        if failures[1:] and len(set(failures)) == 1:
            (complain if output() else print)("The rest is not tried: two runs failed alike.")
            break
        outcome = send(folder, options.timeout, replay_study if (folder / FILE).exists() else replay_run)
        _tell(outcome)
        failures += [outcome.detail] if outcome.state == "failed" else []
    if failures:
        sys.exit(1)


def _tell(outcome: Outcome) -> None:
    found = {"folder": str(outcome.folder), "state": outcome.state, "detail": outcome.detail}
    result(None, lambda: found)
    if output() == JSON or (output() == QUIET and outcome.state != "failed"):
        return
    print(f"{WORDS.get(outcome.state, outcome.state):<16} {outcome.folder.name}  {outcome.detail}".rstrip())


COMPARE = Command(
    "compare",
    "show what differs between two runs, whether they are comparable, and which did better.",
    "lorascope compare qv_ffn-smollm2 3f9a1c2e --runs runs/demo",
    _compare_arguments,
    _run_compare,
)
SYNC = Command(
    "sync",
    "send to W&B what it lacks of runs that were offline, or whose server was gone.",
    "lorascope sync runs --dry-run",
    _sync_arguments,
    _run_sync,
)
LIST = Command(
    "list",
    "one line for each run below a folder, newest first, with its status, eval loss, date and duration.",
    "lorascope list runs --status failed",
    _list_arguments,
    _run_list,
)
