"""A sweep before its first run: every job is planned; what will be run, is done, or cannot be, is one table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorascope.config import RunConfig
from lorascope.errors import LorascopeError
from lorascope.scout import Look, Scout
from lorascope.terminal import console, waiting


@dataclass
class Job:
    """One run of a sweep: the words that make it, and its config, or why it has none."""

    words: str
    config: RunConfig | None
    error: LorascopeError | None = None
    look: Look | None = None
    done: bool = False


def show_jobs(jobs: Sequence[Job], out: Console | None = None) -> None:
    """Plan every job, and show them; nothing is loaded, and none is kept from being run."""
    if any(job.config and job.config.dry_run for job in jobs):
        return  # each shows its own plan
    out = out or console()
    scout = Scout()
    with waiting(out, "planning all runs"):
        for job in jobs:
            _look_at(job, scout)
    table = Table(box=None, pad_edge=False)
    for title in ("run", "parameters", "memory", ""):
        table.add_column(title, justify="right" if title in ("parameters", "memory") else "left")
    for job in jobs:
        plan = job.look.plan if job.look else None
        parameters = f"{plan.trainable_parameters:,}" if plan else "-"
        memory = job.look.memory_words if job.look else "-"
        table.add_row(*map(Text, (job.words, parameters, memory, _state(job))))
    done, bad = sum(job.done for job in jobs), sum(job.error is not None for job in jobs)
    said = [f"{done} done" if done else "", f"{bad} cannot be run" if bad else ""]
    out.print(f"[bold]{len(jobs)} runs[/]   {', '.join(filter(None, said))}".rstrip())
    out.print(table)


def _state(job: Job) -> str:
    if job.error:
        return f"{job.error.place}: {job.error.what}"
    return "done" if job.done else ""


def _look_at(job: Job, scout: Scout) -> None:
    from lorascope.libraries import importing
    from lorascope.models.device import resolve
    from lorascope.records.store import find_done
    from lorascope.run import pinned

    if job.config is None:
        return
    try:
        with importing():
            config = resolve(job.config)
        config = dataclasses.replace(config, dataset=pinned(config.dataset))
        job.done = not config.overwrite and find_done(config) is not None
    except LorascopeError as error:
        job.error = error
        return
    job.look = scout.look(config)
    job.error = job.look.error
