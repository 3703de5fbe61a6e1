"""lorascope report: compare the runs below a folder in a table and a plot of eval loss against trainable parameters."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lorascope.errors import ConfigError, RunError, complain

EXAMPLE = "lorascope report runs/demo --group --sort parameters --csv results.csv"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("folder", metavar="DIR", help="a runs_dir, or any folder above runs")
    parser.add_argument("--group", action="store_true", help="a row for each config apart from the seed: n, mean, sd")
    parser.add_argument("--sort", metavar="KEY", help="the column to sort by, lowest first (default: eval loss)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON; no plot is drawn")
    parser.add_argument("--csv", metavar="FILE", help="write every field of the rows as CSV; - prints nothing else")
    parser.add_argument("--plot", metavar="FILE", help="where the plot goes (default: DIR/eval_loss.png)")


def run(options: argparse.Namespace) -> None:
    """Show the table and draw the plot."""
    from lorascope.records.store import load_runs
    from lorascope.studies.groups import GROUP_COLUMNS, groups_of
    from lorascope.studies.plots import plot_loss
    from lorascope.studies.report import show_groups, show_runs, with_metrics
    from lorascope.studies.rows import RUN_COLUMNS, column_named, rows_of, sort_rows, write_csv
    from lorascope.studies.settings import plain
    from lorascope.terminal import console

    if options.json and options.csv == "-":
        raise ConfigError("--csv=-", "stdout already holds the JSON.", "Name a file: --csv FILE")
    records, damaged = load_runs(options.folder)
    for error in damaged:
        complain(error)
    if not records:
        raise RunError(options.folder, "no run is recorded below it.", "Make one: python train.py")
    rows = groups_of(records) if options.group else rows_of(records)
    if options.sort:
        columns = with_metrics(GROUP_COLUMNS if options.group else RUN_COLUMNS, rows)
        rows = sort_rows(rows, column_named(options.sort, columns))
    if options.csv:
        write_csv(rows, options.csv)
    if options.json:
        print(json.dumps(plain(rows), indent=1))
    if options.json or options.csv == "-":
        return
    (show_groups if options.group else show_runs)(console(), rows, records)
    if options.csv:
        print(f"csv     {options.csv}")
    plot = plot_loss(records, Path(options.plot or Path(options.folder) / "eval_loss.png"))
    if plot:
        print(f"plot    {plot}")
