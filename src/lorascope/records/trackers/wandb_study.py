"""A study on W&B: its table and its page, in a W&B run beside those of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorascope.records.record import RunRecord
from lorascope.records.redact import redact
from lorascope.records.trackers.wandb import Wandb
from lorascope.records.trackers.wandb_account import REACHED, bound_table, remember

JOB_TYPE = "study"


class WandbStudy(Wandb):
    """A W&B run of job_type "study" in the group of the study's runs; told again, it stays the same W&B run."""

    def __init__(
        self,
        record: RunRecord,
        folder: Path,
        study: Mapping[str, Any],
        replay: Path | None = None,
        seconds: float | None = None,
    ) -> None:
        self.study = redact(dict(study))
        super().__init__(record, folder, {}, replay, seconds)

    def _held(self, run: Any) -> int:
        """Whatever the server holds, the study is told again after it."""
        self.reached = max(self.reached, int(run.starting_step) - 1)
        return self.reached

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
        """The results as a table, the page, and the end.

        Args:
            rows: the results, of which the first names the columns.
            page: the report's HTML.
            summary: single values.
        """
        import wandb

        step = self.reached + 1
        with self._data_here():
            table = bound_table(self.run, rows, list(rows[0]), "results", step)
            self.run.log({"results": table, "report": wandb.Html(redact(page), inject=False)}, step=step)
        remember(self.folder, **{REACHED: step})
        self.run.summary.update(redact(dict(summary)))
        self.end(well=True)
