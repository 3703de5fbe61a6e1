"""A study before its first run: every arm on every task is planned and shown; nothing is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lorascope.conduct.design import Design
from lorascope.conduct.pilot import expected, grid
from lorascope.conduct.planned import Planner
from lorascope.config import RunConfig
from lorascope.scout import Look, Scout
from lorascope.studies.study import Arm
from lorascope.terminal import waiting

Key = tuple[str, str]  # task, arm


@dataclass
class Overview:
    """What planning found, by task and arm."""

    looks: dict[Key, Look] = field(default_factory=dict)
    scout: Scout = field(default_factory=Scout)

    @property
    def refused(self) -> dict[Key, str]:
        """The cells that cannot be run, and why."""
        return {key: f"{look.error.place}: {look.error.what}" for key, look in self.looks.items() if look.error}


def show_study(out: Console, config: RunConfig, design: Design, planner: Planner) -> Overview:
    """Plan every arm on every task, show the arms, and fill in their ranks and parameters."""
    found = Overview()
    study = config.study
    with waiting(out, "planning the study"):
        for cell in design.cells:
            first = planner.final(cell, study.seeds[0], None)
            look = found.looks[cell.task.name, cell.arm.name] = found.scout.look(first.config)
            if look.plan:
                _fill_in(cell.arm, look)
    tasks = ", ".join(f"{task.name} by {task.metric}" for task in design.tasks)
    pilot = study.pilot
    rates = f"each arm's rate by a pilot over {len(grid(pilot))}" if pilot.points else "one rate for all arms"
    out.print(f"[bold]study {escape(str(study.name))}[/]   {escape(study.title)}".rstrip())
    model = design.cells[0].config.model.name
    out.print(f"{escape(str(model))}; {escape(tasks)}; {len(study.seeds)} seeds; {rates}; against {design.reference}")
    for view in design.views:
        out.print(f"\n[bold]{escape(view)}[/]" if len(design.views) > 1 else "")
        out.print(_arms(design, view, found))
    for (task, arm), reason in found.refused.items():
        out.print(f"[red]cannot be run[/]  {escape(task)}, {escape(arm)}: {escape(reason)}")
    finals = len(design.cells) * len(study.seeds)
    pilots = f" and a pilot of about {len(design.cells) * expected(pilot):.0f} trainings" if pilot.points else ""
    out.print(f"{finals} runs{pilots}, below {escape(str(config.runs_dir))}\n")
    return found


def _fill_in(arm: Arm, look: Look) -> None:
    assert look.plan is not None
    ranks = sorted({module.rank for module in look.plan.modules}, reverse=True)
    arm.ranks = "/".join(map(str, ranks))
    arm.parameters = look.plan.trainable_parameters


def _arms(design: Design, view: str, found: Overview) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("arm", "rank", "parameters", "memory", ""):
        table.add_column(title, justify="right" if title in ("parameters", "memory") else "left")
    for arm in design.arms:
        if view not in arm.views:
            continue
        looks = [look for (_, name), look in found.looks.items() if name == arm.name]
        most = max(looks, key=lambda look: look.memory or 0, default=Look())
        parameters = "by the weights" if arm.parameters is None else f"{arm.parameters:,}"
        table.add_row(*map(Text, (arm.name, arm.ranks or "-", parameters, most.memory_words, arm.words)))
    return table
