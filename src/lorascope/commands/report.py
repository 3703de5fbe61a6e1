"""lorascope report: compare the runs below a folder in a table and a plot of eval loss against trainable parameters."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lorascope.errors import RunError, complain

EXAMPLE = "lorascope report runs/demo"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("folder", metavar="DIR", help="a runs_dir, or any folder above runs")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON; no plot is drawn")
    parser.add_argument("--plot", metavar="FILE", help="where the plot goes (default: DIR/eval_loss.png)")


def run(options: argparse.Namespace) -> None:
    """Show the table and draw the plot."""
    from lorascope.records.store import load_runs
    from lorascope.studies.plots import plot_loss
    from lorascope.studies.report import rows_of, show_report
    from lorascope.terminal import console

    records, damaged = load_runs(options.folder)
    for error in damaged:
        complain(error)
    if not records:
        raise RunError(options.folder, "no run is recorded below it.", "Make one: python train.py")
    if options.json:
        print(json.dumps(rows_of(records), indent=1))
        return
    show_report(console(), records)
    plot = plot_loss(records, Path(options.plot or Path(options.folder) / "eval_loss.png"))
    if plot:
        print(f"plot    {plot}")
