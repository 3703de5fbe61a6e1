"""What W&B is told of a study: its table and its page come in, a W&B run beside those of its runs goes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lorascope.records.record import RunRecord
from lorascope.records.redact import redact
from lorascope.records.trackers.wandb import Wandb
from lorascope.records.trackers.wandb_words import bound_table, data_below

JOB_TYPE = "study"


class WandbStudy(Wandb):
    """A W&B run of job_type "study" in the group of the study's runs; told again, it stays the same W&B run."""

    def __init__(self, record: RunRecord, folder: Path, study: Mapping[str, Any]) -> None:
        self.study = dict(study)
        super().__init__(record, folder, {})

    def _begin(self, record: RunRecord) -> None:
        """Nothing: a study has no modules."""

    def _words(self, record: RunRecord) -> dict[str, Any]:
        logger = record.config["logger"]
        name = str(self.study["name"])
        return {
            "name": name, "group": logger["group"], "tags": list(logger["tags"]), "job_type": JOB_TYPE,
            "config": {"study": self.study},
        }  # fmt: skip

    def show(self, rows: Sequence[Mapping[str, Any]], page: str, summary: Mapping[str, Any]) -> None:
        """The results as a table, the page, and the end."""
        import wandb

        step = self.held + 1
        with data_below(self.folder):
            table = bound_table(self.run, rows, list(rows[0]), "results", step)
            self.run.log({"results": table, "report": wandb.Html(page, inject=False)}, step=step)
        self.run.summary.update(dict(summary))


def tell_study(
    record: RunRecord,
    folder: Path,
    study: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    page: str,
    summary: Mapping[str, Any],
    warn: Callable[[str], None],
) -> str:
    """Tell W&B of a study; what goes wrong is told, and is no error.

    Args:
        record: of one of its runs, whose config says where W&B is, and in which group.
        folder: the study's, where the W&B run is kept.
        study: its settings; "name" among them.
        rows: the results, of which the first names the columns.
        page: the report's HTML.
        summary: single values.
        warn: told of what did not work.

    Returns:
        A line that says where it can be seen, or how it is sent; empty where there is none.
    """
    try:
        tracker = WandbStudy(record, folder, redact(dict(study)))
        tracker.show(rows, redact(page), redact(dict(summary)))
        tracker.end(well=True)
        return tracker.note
    except Exception as error:
        warn(f"W&B was not told of the study ({redact(str(error))}); the report is in {folder}.")
        return ""
