"""lorascope report: what a study found, or the runs below any other folder in a table and a plot of eval loss."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from lorascope.cli import Command, add_quiet, port
from lorascope.console import output, result
from lorascope.errors import ConfigError, RunError, complain

PORT = 8765  # of the served page, unless another is named

if TYPE_CHECKING:
    from lorascope.records.record import RunRecord


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("folder", metavar="DIR", help="a study, a runs_dir, or any folder above runs")
    parser.add_argument("--group", action="store_true", help="a row for each config apart from the seed: n, mean, sd")
    parser.add_argument("--sort", metavar="KEY", help="the column to sort by, lowest first (default: eval loss)")
    add_quiet(parser, "the page's or plot's path")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON; no plot is drawn")
    parser.add_argument("--csv", metavar="FILE", help="write every field of the rows as CSV; - prints nothing else")
    parser.add_argument(
        "--plot", metavar="FILE", help="where the plot goes (default: DIR/eval_loss.png, of a study pareto.png)"
    )
    study = parser.add_argument_group(
        "of a study", "With --group or --sort its final runs are shown as other runs are."
    )
    study.add_argument("--html", metavar="FILE", help="where the page goes (default: DIR/report.html)")
    study.add_argument("--mixed", action="store_true", help="compare runs although their data, base or formats differ")
    text = "follow its runs until it is finished, looking every SECONDS (default: 2)"
    study.add_argument("--watch", metavar="SECONDS", type=float, nargs="?", const=2.0, help=text)
    text = f"serve its page on this machine, and follow its runs in it; 0 takes a free port (default: {PORT})"
    study.add_argument("--serve", metavar="PORT", type=_port, nargs="?", const=PORT, help=text)


def _port(text: str) -> int:
    """A port's number."""
    try:
        return port(text)
    except argparse.ArgumentTypeError as error:
        if text.isdecimal():
            raise
        hint = f"The study comes first: lorascope report {text} --serve"
        raise argparse.ArgumentTypeError(f"{error} {hint}") from error


def _run_report(options: argparse.Namespace) -> None:
    """Show what there is.

    Raises:
        ConfigError: when options do not go together, or need a study where there is none.
        RunError: when there is nothing to show, or a file cannot be written.
    """
    from lorascope.reports.findings import is_study

    if options.json and options.csv == "-":
        raise ConfigError("--csv=-", "stdout already holds the JSON.", "Name a file: --csv FILE")
    if options.serve is not None:
        others = ("group", "sort", "json", "csv", "plot", "html", "watch")
        if also := next((name for name in others if getattr(options, name) not in (None, False)), None):
            raise ConfigError(f"--{also}", "does not go with --serve.", "Leave one of them out.")
    if is_study(options.folder):
        _study(options, Path(options.folder).expanduser())
        return
    for name in ("html", "mixed", "watch", "serve"):
        if getattr(options, name) is not None and getattr(options, name) is not False:
            raise RunError(
                options.folder, f"holds no study, which --{name} is for.", "Name the folder of a study.json."
            )
    _runs(options)


def _study(options: argparse.Namespace, folder: Path) -> None:
    from lorascope.console import console
    from lorascope.records.study_record import FINAL, read_study
    from lorascope.reports.findings import as_dict, find, result_rows
    from lorascope.reports.run_table import plain, write_csv
    from lorascope.reports.study_report import PAGE, write_report
    from lorascope.reports.text_tables import show_study
    from lorascope.study.page_server import serve
    from lorascope.study.watch import watch

    if options.serve is not None:
        serve(folder, console(), options.serve, mixed=options.mixed)
    elif options.watch is not None:
        if watch(folder, console(), options.watch):
            show_study(console(), find(folder, mixed=options.mixed))
    elif options.group or options.sort:
        _runs(options, {run.name for run in read_study(folder).runs if run.stage == FINAL})
    elif options.json or options.csv == "-":
        found = find(folder, mixed=options.mixed)
        if options.csv:
            write_csv(result_rows(found), options.csv)
        if options.json:
            print(json.dumps(plain(as_dict(found)), indent=1))
    else:
        html, csv, plot = map(_place, (options.html, options.csv, options.plot))
        write_report(folder, console(), mixed=options.mixed, html=html, csv=csv, plot=plot)
        result(html or folder / PAGE)


def _place(file: str | None) -> Path | None:
    return Path(file).expanduser() if file else None


def _runs(options: argparse.Namespace, names: set[str] | None = None) -> None:
    """The runs below a folder, or those with these names."""
    from lorascope.console import console
    from lorascope.reports.plots import plot_loss
    from lorascope.reports.run_table import RUN_COLUMNS, column_named, plain, rows_of, sort_rows, write_csv
    from lorascope.reports.seed_groups import GROUP_COLUMNS, groups_of
    from lorascope.reports.text_tables import show_groups, show_runs, with_metrics

    records = _records(options.folder, names)
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
    if options.csv and not output():
        print(f"csv     {options.csv}")
    plot = plot_loss(records, Path(options.plot or Path(options.folder) / "eval_loss.png"))
    if plot:
        print(plot if output() else f"plot    {plot}")


def _records(folder: str, names: set[str] | None) -> list[RunRecord]:
    from lorascope.records.store import load_runs

    records, damaged = load_runs(folder)
    for error in damaged:
        complain(error)
    records = [record for record in records if names is None or record.name in names]
    if not records:
        raise RunError(folder, "no run is recorded below it.", "Make one: python train.py")
    return records


REPORT = Command(
    "report",
    "what a study found, or the runs below any other folder in a table and a plot of eval loss.",
    "lorascope report runs/demo --group --sort parameters --csv results.csv",
    _report_arguments,
    _run_report,
)
