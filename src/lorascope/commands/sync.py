"""lorascope sync: send to W&B what it lacks of runs that were offline, or whose server was gone."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from lorascope.errors import ConfigError

if TYPE_CHECKING:
    from lorascope.records.trackers.sync import Outcome

EXAMPLE = "lorascope sync runs --dry-run"
WORDS = {"nothing": "nothing to send", "running": "still running", "unsent": "to send"}
REMEDY = "Run: wandb login, or set WANDB_API_KEY. Then repeat this command."


def arguments(parser: argparse.ArgumentParser) -> None:
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


def run(options: argparse.Namespace) -> None:
    """Send, with a line for each run; exit with 1 if one was not sent.

    Raises:
        ConfigError: when something is to be sent and no key is configured.
    """
    from lorascope.records.trackers.sync import look, replay_run, runs_below, send
    from lorascope.records.trackers.wandb_account import has_key
    from lorascope.studies.study import FILE
    from lorascope.studies.study_report import replay_study

    folders = runs_below(options.folders)
    if not folders:
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
            print("The rest is not tried: two runs failed alike.")
            break
        outcome = send(folder, options.timeout, replay_study if (folder / FILE).exists() else replay_run)
        _tell(outcome)
        failures += [outcome.detail] if outcome.state == "failed" else []
    if failures:
        sys.exit(1)


def _tell(outcome: Outcome) -> None:
    print(f"{WORDS.get(outcome.state, outcome.state):<16} {outcome.folder.name}  {outcome.detail}".rstrip())
