"""lorascope inspect: list a model's attention and FFN modules by layer and role, without loading weights."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorascope.config import TargetConfig
    from lorascope.targets.module_map import ModuleMap
    from lorascope.targets.plan import TargetPlan

EXAMPLE = "lorascope inspect mistral7b"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("model", metavar="MODEL", help="a preset (mistral7b), a hub id, or a folder")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="a strategy to hold against PEFT's default")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(options: argparse.Namespace) -> None:
    """Show a model's module map."""
    from lorascope.api import model_config
    from lorascope.compose import compose
    from lorascope.models.quiet import hush
    from lorascope.plan_view import show_modules
    from lorascope.targets.module_map import inspect_model
    from lorascope.terminal import console

    model = model_config(options.model)
    strategy = compose(options.overrides).target
    hush()
    modules = inspect_model(model)
    if options.json:
        print(json.dumps(dataclasses.asdict(modules), indent=1))
    else:
        out = console()
        show_modules(out, modules)
        for line in against_peft(strategy, modules):
            out.print(line)


def against_peft(strategy: TargetConfig, modules: ModuleMap) -> list[str]:
    """What PEFT would adapt by default, what the strategy would, and how they differ, a line each."""
    from lorascope.compose import compose
    from lorascope.errors import PlanError
    from lorascope.targets.plan import plan_targets

    lines: list[str] = []
    plans: list[TargetPlan] = []
    for target in (compose(["target=peft_default"]).target, strategy):
        try:
            plan = plan_targets(target, modules)
        except PlanError as error:
            lines.append(f"target={target.name}: {error.what}")
            continue
        plans.append(plan)
        lines.append(f"target={target.name} would train {plan.trainable_parameters:,} parameters: {_ranks(plan)}")
    if len(plans) == 2:
        default, chosen = ({(m.layer, role) for m in plan.modules for role in m.role.split("+")} for plan in plans)
        more, less = ({role for _, role in one - other} for one, other in ((chosen, default), (default, chosen)))
        if more or less:
            differs = [f"adds {' '.join(sorted(more))}"] * bool(more) + [f"leaves out {' '.join(sorted(less))}"] * bool(
                less
            )
            lines.append(f"against PEFT's default, {strategy.name} {' and '.join(differs)}")
    return lines


def _ranks(plan: TargetPlan) -> str:
    return ", ".join(dict.fromkeys(f"{module.role} r{module.rank}" for module in plan.modules))
