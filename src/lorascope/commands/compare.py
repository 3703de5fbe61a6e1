"""lorascope compare: show what differs between two runs, whether they are comparable, and which did better."""

from __future__ import annotations

import argparse
import dataclasses
import json

EXAMPLE = "lorascope compare qv_ffn-smollm2 3f9a1c2e --runs runs/demo"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    text = "a run's folder, its run id, or the beginning of its name"
    parser.add_argument("first", metavar="RUN", help=text)
    parser.add_argument("second", metavar="RUN", help="the run to compare it with")
    parser.add_argument("--runs", metavar="DIR", default="runs", help="where ids and names are looked for (runs)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(options: argparse.Namespace) -> None:
    """Show the differences."""
    from lorascope.studies.comparison import compare_runs
    from lorascope.studies.comparison_view import show_comparison
    from lorascope.studies.lookup import find_run
    from lorascope.studies.settings import plain
    from lorascope.terminal import console

    first, folder = find_run(options.first, options.runs)
    second, other = find_run(options.second, options.runs)
    found = compare_runs(first, second)
    if options.json:
        print(json.dumps(plain(dataclasses.asdict(found)), indent=1))
        return
    if folder.resolve() == other.resolve():
        print("Both names mean the same run.")
    show_comparison(console(), found)
