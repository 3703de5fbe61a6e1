"""lorascope list: one line for each run below a folder, newest first, with its status, eval loss, date and duration."""

from __future__ import annotations

import argparse
import json

from lorascope.errors import complain
from lorascope.records.record import Status

EXAMPLE = "lorascope list runs --status failed"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("folder", metavar="DIR", nargs="?", default="runs", help="a folder above runs (default: runs)")
    parser.add_argument(
        "--status",
        metavar="STATUS",
        action="append",
        choices=[str(status) for status in Status],
        help=f"only such runs, may be repeated: {', '.join(Status)}",
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def run(options: argparse.Namespace) -> None:
    """Show the lines."""
    from lorascope.records.store import load_runs
    from lorascope.studies.listing import newest_first, show_list
    from lorascope.studies.settings import plain
    from lorascope.terminal import console

    records, damaged = load_runs(options.folder)
    for error in damaged:
        complain(error)
    rows = newest_first([record for record in records if str(record.status) in (options.status or [record.status])])
    if options.json:
        print(json.dumps(plain(rows), indent=1))
    elif not records:
        print(f"No run is recorded below {options.folder}. Make one: python train.py")
    else:
        show_list(console(), rows, len(records))
