"""Write a study's report: tables, CSV, JSON, picture and page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from lorascope.console import warn
from lorascope.errors import RunError
from lorascope.records.environment import redact
from lorascope.records.record import write_text as replace_text
from lorascope.reports.findings import Findings, as_dict, find, result_rows, run_rows
from lorascope.reports.page import page_of
from lorascope.reports.plots import plot_fronts
from lorascope.reports.run_table import Row, csv_text, plain, setting
from lorascope.reports.text_tables import show_study

if TYPE_CHECKING:
    from lorascope.trackers.wandb_sync import WandbStudy


RESULTS, RUNS, JSON, PLOT, PAGE = "results.csv", "runs.csv", "report.json", "pareto.png", "report.html"


def write_report(
    folder: Path,
    out: Console,
    *,
    mixed: bool = False,
    html: Path | None = None,
    csv: Path | None = None,
    plot: Path | None = None,
    tell: bool = False,
) -> Findings:
    """Show the table and write everything else into the study's folder, each file whole or not at all.

    Args:
        folder: the study's.
        out: where the table is shown.
        mixed: whether runs of differing fingerprints may be compared.
        html: where the page goes, if elsewhere.
        csv: where the results go, if elsewhere.
        plot: where the picture goes, if elsewhere.
        tell: whether W&B is told too, where the runs told it of themselves.

    Raises:
        RunError: when there is no study, or a file cannot be written.
    """
    found = find(folder, mixed=mixed)
    show_study(out, found)
    page, results, picture = html or folder / PAGE, csv or folder / RESULTS, plot or folder / PLOT
    rows = [(results, result_rows(found)), (folder / RUNS, run_rows(found))]
    written = [write_rows(rows_, file) for file, rows_ in rows if rows_]
    written.append(write_text(folder / JSON, json.dumps(plain(as_dict(found)), indent=1) + "\n"))
    whole = page_of(found, page)
    written.append(write_text(page, whole))
    if drawn := plot_fronts(found.comparisons, found.study.tasks, picture):
        written.append(drawn)
    out.print()
    out.print(Text(_places(written, folder)), soft_wrap=True)
    if tell:
        try:
            if tracker := _tell(found, whole):
                out.print(Text(tracker.note), soft_wrap=True)
        except Exception as error:
            warn(f"W&B was not told of the study ({redact(str(error))}); the report is in {folder}.")
    return found


def _tell(found: Findings, page: str, replay: Path | None = None, seconds: float | None = None) -> WandbStudy | None:
    """Tell W&B, if a run's logger did; the arguments after the page are those of `Wandb`."""
    from lorascope.trackers.wandb_sync import WandbStudy

    record = next((one for one in found.records.values() if setting(one, "logger.wandb.enabled")), None)
    rows = plain(result_rows(found))
    if record is None or not rows:
        return None
    tracker = WandbStudy(record, found.folder, plain(as_dict(found)["study"]), replay, seconds)
    verdicts = {f"{row['view']}/{row['task']}/{row['arm']}": row["verdict"] for row in rows}
    tracker.show(rows, page, {"verdict": verdicts})
    return tracker


def replay_study(folder: Path, place: Path, seconds: float) -> WandbStudy:
    """Tell W&B of a study once more, as `records.trackers.sync.send` wants it.

    Args:
        folder: the study's.
        place: where W&B keeps its own files.
        seconds: how long W&B may take for its start, and for its end.

    Raises:
        RunError: when there is nothing to tell.
    """
    found = find(folder)
    if tracker := _tell(found, page_of(found), place, seconds):
        return tracker
    raise RunError(str(folder), "no run of the study has told W&B.", "Run the study with logger=wandb.")


def write_rows(rows: Sequence[Row], file: Path) -> Path:
    """The rows as CSV.

    Raises:
        RunError: when the file cannot be written.
    """
    return write_text(file, csv_text(rows))


def write_text(file: Path, text: str) -> Path:
    """Replace a file in one step.

    Raises:
        RunError: when it cannot be written.
    """
    try:
        replace_text(file, text)
    except OSError as error:
        raise RunError(str(file), f"cannot be written: {error.strerror}.", "Choose a place that can be.") from error
    return file


def _places(files: Sequence[Path], folder: Path) -> str:
    """report.html, results.csv in runs/quick; those elsewhere by their whole path."""
    inside = ", ".join(file.name for file in files if file.parent == folder)
    outside = [str(file) for file in files if file.parent != folder]
    return "\n".join([*([f"{inside} in {folder}"] if inside else []), *outside])
