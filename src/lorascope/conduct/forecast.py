"""A study's runs with what each will take, nothing of which is made: what a dry run shows."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorascope.conduct.design import Cell, Design
from lorascope.conduct.overview import Overview
from lorascope.conduct.pilot import Trial, expected, grid
from lorascope.conduct.planned import Planned, Planner, state_of
from lorascope.config import RunConfig, StudyConfig
from lorascope.scout import Look, Scout
from lorascope.terminal import waiting
from lorascope.wording import duration

REACHED = 0.4  # of the matrix product's speed, by a training on a CPU and a GPU alike (docs/performance.md)
NUMBERS = ("seed", "rate", "parameters", "memory", "time")


def show_runs(out: Console, design: Design, planner: Planner, study: StudyConfig, found: Overview) -> None:
    """Every run that is known before the first; a pilot's later rounds follow from its first."""
    clock = Clock(found.scout)
    table = Table(box=None, pad_edge=False)
    for title in ("run", "task", "arm", *NUMBERS, ""):
        table.add_column(title, justify="right" if title in NUMBERS else "left")
    total = 0.0
    with waiting(out, "estimating times"):
        for cell in design.cells:
            look = found.looks[cell.task.name, cell.arm.name]
            for run in _runs(cell, planner, study):
                seconds = clock.seconds(run.config, look)
                table.add_row(*map(Text, _row(run, look, seconds, study)))
                total += seconds or 0.0
            whole = planner.final(cell, study.seeds[0], None).config
            total += _later_rounds(study) * (clock.seconds(whole, look) or 0.0)
    out.print(table)
    if total:
        out.print(f"about {duration(total)} of training in all, with the pilot's later rounds; evaluation aside")


def _runs(cell: Cell, planner: Planner, study: StudyConfig) -> list[Planned]:
    trials = [Trial(0, step) for step in grid(study.pilot)]
    pilot = [planner.trial(cell, study.pilot, trial) for trial in trials]
    return [*pilot, *(planner.final(cell, seed, None) for seed in study.seeds)]


def _later_rounds(study: StudyConfig) -> float:
    """In whole trainings."""
    points = study.pilot.points
    return expected(study.pilot) - points * study.pilot.shares[0] if points else 0.0


def _row(run: Planned, look: Look, seconds: float | None, study: StudyConfig) -> tuple[str, ...]:
    entry = run.entry
    final = entry.stage == "final"
    state = state_of(run)
    known = "" if state.status == "queued" else f"{state.status} {state.reason}".rstrip()
    return (
        entry.stage if final else f"{entry.stage} {entry.steps:.0%}",
        entry.task,
        entry.arm,
        str(entry.seed),
        "by the pilot" if final and study.pilot.points else f"{entry.rate:g}",
        f"{look.plan.trainable_parameters:,}" if look.plan else "-",
        look.memory_words,
        f"~ {duration(seconds)}" if seconds else "-",
        look.error.what if look.error else known,
    )


class Clock:
    """Estimates how long trainings take: their arithmetic, over what this machine does of it in a second."""

    def __init__(self, scout: Scout) -> None:
        self.scout = scout
        self.speed: float | None = None

    def seconds(self, config: RunConfig, look: Look) -> float | None:
        """Of a training, rows that are not on this machine as long as can be; None where nothing is known."""
        from lorascope.estimate.compute import estimate_compute

        if look.plan is None:
            return None
        shapes = self.scout.models[str(config.model)][1]
        work = estimate_compute(config, shapes, look.plan, **self.scout.mean(config))
        if work.run is None:
            return None
        self.speed = self.speed or measured_speed(config)
        return work.run / (self.speed * REACHED)


def measured_speed(config: RunConfig) -> float:
    """FLOP/s of a matrix product on the config's device, in its base's number format: a fifth of a second's look."""
    import time

    import torch

    device, dtype = str(config.device), getattr(torch, str(config.model.dtype))
    one = torch.ones(1024, 1024, device=device, dtype=dtype)
    done, began = 0, 0.0
    while not done or time.perf_counter() - began < 0.2:
        began = began if done else time.perf_counter()
        float((one @ one)[0, 0])  # waits for the device
        done += 1
    return 2 * 1024**3 * done / (time.perf_counter() - began)
