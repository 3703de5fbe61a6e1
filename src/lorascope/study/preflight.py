"""Plans and shows a study before its first run: each arm on each task, and for a dry run each run and its time."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lorascope.config.schema import RunConfig, StudyConfig
from lorascope.console import waiting
from lorascope.errors import LorascopeError
from lorascope.formats import duration
from lorascope.planning.run_plan import PlanningCache, RunPlan, plan_run
from lorascope.records.study_record import FINAL, Arm
from lorascope.study.design import ArmOnTask, Design
from lorascope.study.schedule import PlannedRun, StudyPlanner, Trial, expected, grid, state_of

Key = tuple[str, str]  # task, arm
REACHED = 0.4  # of the matrix product's speed, by a training on a CPU and a GPU alike (docs/performance.md)
NUMBERS = ("seed", "rate", "parameters", "memory", "time")


@dataclass
class StudyPlans:
    """The plan of a run of each arm on each task, or why it cannot be run."""

    plans: dict[Key, RunPlan] = field(default_factory=dict)
    errors: dict[Key, LorascopeError] = field(default_factory=dict)

    @property
    def refused(self) -> dict[Key, str]:
        """The cells that cannot be run, and why."""
        return {key: error.problem for key, error in self.errors.items()}


def plan_study(out: Console, config: RunConfig, design: Design, planner: StudyPlanner) -> StudyPlans:
    """Plan every arm on every task, and fill in their ranks and parameters."""
    found, cache = StudyPlans(), PlanningCache()
    with waiting(out, "planning the study"):
        for cell in design.cells:
            first = planner.final(cell, config.study.seeds[0], None)
            try:
                plan = found.plans[cell.key] = plan_run(first.config, cache)
            except LorascopeError as error:
                found.errors[cell.key] = error
                continue
            if plan.target:
                ranks = sorted({module.rank for module in plan.target.modules}, reverse=True)
                cell.arm.ranks = "/".join(map(str, ranks))
                cell.arm.parameters = plan.target.trainable_parameters
    return found


def show_study(out: Console, config: RunConfig, design: Design, found: StudyPlans) -> None:
    """The study in a few lines: arms, tasks, rates, and what cannot be run."""
    study = config.study
    tasks = ", ".join(f"{task.name} by {task.metric}" for task in design.tasks)
    pilot = study.pilot
    rates = f"each arm's rate by a pilot over {len(grid(pilot))}" if pilot.points else "one rate for all arms"
    out.print(f"[bold]study {escape(str(study.name))}[/]   {escape(study.title)}".rstrip())
    model = design.cells[0].config.model.name
    out.print(f"{escape(str(model))}; {escape(tasks)}; {len(study.seeds)} seeds; {rates}; against {design.reference}")
    for view in design.views:
        out.print(f"\n[bold]{escape(view)}[/]" if len(design.views) > 1 else "")
        out.print(_arms([arm for arm in design.arms if view in arm.views], found))
    for (task, arm), reason in found.refused.items():
        out.print(f"[red]cannot be run[/]  {escape(task)}, {escape(arm)}: {escape(reason)}")
    finals = len(design.cells) * len(study.seeds)
    pilots = f" and a pilot of about {len(design.cells) * expected(pilot):.0f} trainings" if pilot.points else ""
    out.print(f"{finals} runs{pilots}, below {escape(str(config.runs_dir))}\n")


def _arms(arms: list[Arm], found: StudyPlans) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("arm", "rank", "parameters", "memory", ""):
        table.add_column(title, justify="right" if title in ("parameters", "memory") else "left")
    for arm in arms:
        plans = [plan for (_, name), plan in found.plans.items() if name == arm.name]
        most = max(plans, key=lambda plan: plan.memory.total if plan.memory else 0, default=None)
        parameters = "by the weights" if arm.parameters is None else f"{arm.parameters:,}"
        memory = most.memory_text if most else "-"
        table.add_row(*map(Text, (arm.name, arm.ranks or "-", parameters, memory, arm.words)))
    return table


def show_runs(out: Console, design: Design, planner: StudyPlanner, study: StudyConfig, found: StudyPlans) -> None:
    """Every run that is known before the first; a pilot's later rounds follow from its first."""
    times = TrainingTimes()
    table = Table(box=None, pad_edge=False)
    for title in ("run", "task", "arm", *NUMBERS, ""):
        table.add_column(title, justify="right" if title in NUMBERS else "left")
    total = 0.0
    with waiting(out, "estimating times"):
        for cell in design.cells:
            plan = found.plans.get(cell.key)
            for run in _runs(cell, planner, study):
                seconds = times.seconds(run.config, plan)
                table.add_row(*map(Text, _row(run, plan, found.errors.get(cell.key), seconds, study)))
                total += seconds or 0.0
            whole = planner.final(cell, study.seeds[0], None).config
            total += _later_rounds(study) * (times.seconds(whole, plan) or 0.0)
    out.print(table)
    if total:
        out.print(f"about {duration(total)} of training in all, with the pilot's later rounds; evaluation aside")


def _runs(cell: ArmOnTask, planner: StudyPlanner, study: StudyConfig) -> list[PlannedRun]:
    trials = [Trial(0, step) for step in grid(study.pilot)]
    pilot = [planner.trial(cell, study.pilot, trial) for trial in trials]
    return [*pilot, *(planner.final(cell, seed, None) for seed in study.seeds)]


def _later_rounds(study: StudyConfig) -> float:
    """In whole trainings."""
    points = study.pilot.points
    return expected(study.pilot) - points * study.pilot.shares[0] if points else 0.0


def _row(
    run: PlannedRun, plan: RunPlan | None, error: LorascopeError | None, seconds: float | None, study: StudyConfig
) -> tuple[str, ...]:
    entry = run.entry
    final = entry.stage == FINAL
    state = state_of(run)
    known = "" if state.status == "queued" else f"{state.status} {state.reason}".rstrip()
    return (
        entry.stage if final else f"{entry.stage} {entry.steps:.0%}",
        entry.task,
        entry.arm,
        str(entry.seed),
        "by the pilot" if final and study.pilot.points else f"{entry.rate:g}",
        f"{plan.target.trainable_parameters:,}" if plan and plan.target else "-",
        plan.memory_text if plan else "-",
        f"~ {duration(seconds)}" if seconds else "-",
        error.what if error else known,
    )


class TrainingTimes:
    """Estimates how long trainings take: their arithmetic, over what this machine does of it in a second."""

    def __init__(self) -> None:
        self.speed: float | None = None

    def seconds(self, config: RunConfig, plan: RunPlan | None) -> float | None:
        """Of a training, rows that are not on this machine as long as can be; None where nothing is known.

        Args:
            config: of the run, which may be shorter than the planned one, as a pilot's are.
            plan: of its arm on its task.
        """
        if plan is None or plan.target is None:
            return None
        work = plan.compute_of(config)
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
