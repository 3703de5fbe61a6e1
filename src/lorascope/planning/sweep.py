"""A sweep before its first run: every job is planned; what will be run, is done, or cannot be, is one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorascope.config.schema import RunConfig
from lorascope.console import console, waiting
from lorascope.errors import LorascopeError
from lorascope.planning.run_plan import PlanningCache, RunPlan, plan_run, resolve_config


@dataclass
class Job:
    """One run of a sweep: the overrides that make it, and its config, or why it has none."""

    overrides: str
    config: RunConfig | None
    error: LorascopeError | None = None
    plan: RunPlan | None = None

    @property
    def done(self) -> bool:
        """Whether it was made before, and will not be repeated."""
        return self.plan is not None and self.plan.done is not None


def show_jobs(jobs: Sequence[Job], out: Console | None = None) -> None:
    """Plan every job, and show them; nothing is loaded, and none is kept from being run."""
    if any(job.config and job.config.dry_run for job in jobs):
        return  # each shows its own plan
    out = out or console()
    cache = PlanningCache()
    with waiting(out, "planning all runs"):
        for job in jobs:
            _plan(job, cache)
    table = Table(box=None, pad_edge=False)
    for title in ("run", "parameters", "memory", ""):
        table.add_column(title, justify="right" if title in ("parameters", "memory") else "left")
    for job in jobs:
        target = job.plan.target if job.plan else None
        parameters = f"{target.trainable_parameters:,}" if target else "-"
        memory = job.plan.memory_text if job.plan else "-"
        table.add_row(*map(Text, (job.overrides, parameters, memory, _state(job))))
    done, bad = sum(job.done for job in jobs), sum(job.error is not None for job in jobs)
    counts = [f"{done} done" if done else "", f"{bad} cannot be run" if bad else ""]
    out.print(f"[bold]{len(jobs)} runs[/]   {', '.join(filter(None, counts))}".rstrip())
    out.print(table)


def _state(job: Job) -> str:
    if job.error:
        return job.error.problem
    return "done" if job.done else ""


def _plan(job: Job, cache: PlanningCache) -> None:
    if job.config is None:
        return
    try:
        job.plan = plan_run(resolve_config(job.config), cache)
    except LorascopeError as error:
        job.error = error
