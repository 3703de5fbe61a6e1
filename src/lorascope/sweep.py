"""A sweep before its first run: every job is planned; what will be run, is done, or cannot be, is one table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorascope.config import RunConfig
from lorascope.errors import LorascopeError
from lorascope.terminal import console, waiting
from lorascope.wording import megabytes

if TYPE_CHECKING:
    from lorascope.targets.plan import TargetPlan


@dataclass
class Job:
    """One run of a sweep: the words that make it, and its config, or why it has none."""

    words: str
    config: RunConfig | None
    error: LorascopeError | None = None
    parameters: int | None = None
    memory: int | None = None
    done: bool = False


def show_jobs(jobs: Sequence[Job], out: Console | None = None) -> None:
    """Plan every job, and show them; nothing is loaded, and none is kept from being run."""
    if any(job.config and job.config.dry_run for job in jobs):
        return  # each shows its own plan
    out = out or console()
    models: dict[str, Any] = {}
    with waiting(out, "planning all runs"):
        for job in jobs:
            _look_at(job, models)
    table = Table(box=None, pad_edge=False)
    for title in ("run", "parameters", "memory", ""):
        table.add_column(title, justify="right" if title in ("parameters", "memory") else "left")
    for job in jobs:
        parameters = "-" if job.parameters is None else f"{job.parameters:,}"
        memory = "-" if job.memory is None else f"~ {megabytes(job.memory)}"
        table.add_row(*map(Text, (job.words, parameters, memory, _state(job))))
    done, bad = sum(job.done for job in jobs), sum(job.error is not None for job in jobs)
    said = [f"{done} done" if done else "", f"{bad} cannot be run" if bad else ""]
    out.print(f"[bold]{len(jobs)} runs[/]   {', '.join(filter(None, said))}".rstrip())
    out.print(table)


def _state(job: Job) -> str:
    if job.error:
        return f"{job.error.place}: {job.error.what}"
    return "done" if job.done else ""


@dataclass(frozen=True)
class Look:
    """What a run would train and take; or why it cannot be."""

    plan: TargetPlan | None = None  # None where the base's weights decide
    memory: int | None = None
    error: LorascopeError | None = None


def look_at(config: RunConfig, models: dict[str, Any]) -> Look:
    """Plan a run; nothing is loaded.

    Args:
        config: resolved.
        models: those that were read before, by their settings; more are put in.
    """
    from lorascope.estimate.fit import with_checkpointing
    from lorascope.estimate.memory import estimate_memory
    from lorascope.libraries import importing
    from lorascope.models.quiet import hush
    from lorascope.records.memory import free_gpu_bytes
    from lorascope.targets.module_map import read_model
    from lorascope.targets.plan import plan_targets

    try:
        with importing():
            hush()
        key = str(config.model)
        if key not in models:
            with importing():
                models[key] = read_model(config.model)
        modules, shapes = models[key]
        if config.target.auto.method is not None:
            return Look()
        plan = plan_targets(config.target, modules)
        config = with_checkpointing(config, shapes, plan, free_gpu_bytes(str(config.device)))
        return Look(plan, estimate_memory(config, shapes, plan).total)
    except LorascopeError as error:
        return Look(error=error)


def _look_at(job: Job, models: dict[str, Any]) -> None:
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
    look = look_at(config, models)
    job.error, job.memory = look.error, look.memory
    job.parameters = look.plan.trainable_parameters if look.plan else None
