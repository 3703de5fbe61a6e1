"""lorascope inspect and plan: a model's modules by layer and role, and what strategies would train of them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from itertools import product
from typing import TYPE_CHECKING, Any

from lorascope.cli import Command, add_quiet

if TYPE_CHECKING:
    from lorascope.config.schema import TargetConfig
    from lorascope.planning.run_plan import RunPlan
    from lorascope.targets.module_map import ModuleMap
    from lorascope.targets.plan import TargetPlan


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("model", metavar="MODEL", help="a preset (mistral7b), a hub id, or a folder")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="a strategy to hold against PEFT's default")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def _run_inspect(options: argparse.Namespace) -> None:
    """Show a model's module map."""
    from lorascope.api import model_config
    from lorascope.compose import compose
    from lorascope.console import console, hush
    from lorascope.planning.plan_view import show_modules
    from lorascope.targets.module_map import inspect_model

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
    from lorascope.targets.build_plan import plan_targets

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


LIST = re.compile(r"^[\w./-]+(,[\w./-]+)+$")  # q_v,qkvo: a choice of several; not [a,b] or 'a,b'


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="as for train; KEY=A,B,C gives a row each")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own groups, as for train")
    parser.add_argument("--gpu-memory", metavar="SIZE", help="plan as on a GPU of 24GiB, say, and show what fits")
    add_quiet(parser, "no plan")
    parser.add_argument("--json", action="store_true", help="print the plans as JSON, module by module")


def _run_plan(options: argparse.Namespace) -> None:
    """Plan every combination; one alone is shown by layer and role, several as a table."""
    from lorascope.compose import compose
    from lorascope.config.schema import Device
    from lorascope.planning.fit import parse_bytes
    from lorascope.planning.run_plan import PlanningCache, plan_run, resolve_config

    gpu = parse_bytes(options.gpu_memory, "--gpu-memory") if options.gpu_memory else None
    choices = combinations(options.overrides)
    configs = [compose(overrides, options.config_dir) for overrides in choices]
    cache, device = PlanningCache(), Device.cuda if gpu else None
    plans = [plan_run(resolve_config(config, device), cache, gpu_memory=gpu) for config in configs]
    if options.json:
        print(json.dumps([as_json(plan) for plan in plans], indent=1))
    elif len(plans) == 1:
        _show_one(plans[0], gpu)
    else:
        _show_many(plans, choices, options.overrides)


def _show_one(plan: RunPlan, gpu: int | None) -> None:
    from lorascope.console import console
    from lorascope.planning.plan_view import show_run_plan, show_ways

    out = console()
    show_run_plan(out, plan, hints=not gpu)  # the ways are shown below
    if gpu and plan.target:
        show_ways(out, plan.suggestions(gpu), gpu)


def _show_many(plans: list[RunPlan], choices: list[list[str]], overrides: list[str]) -> None:
    from lorascope.console import console
    from lorascope.planning.plan_view import PlanRow, show_plans

    varying = [place for place, override in enumerate(overrides) if LIST.match(override.partition("=")[2])]
    rows = [
        PlanRow(
            [chosen[place].partition("=")[2] for place in varying],
            plan.modules,
            plan.target,
            plan.memory.total if plan.memory else None,
        )
        for plan, chosen in zip(plans, choices, strict=True)
    ]
    show_plans(console(), [overrides[place].partition("=")[0] for place in varying], rows)


def combinations(overrides: list[str]) -> list[list[str]]:
    """Every choice of one value for each override that lists several."""
    choices = []
    for override in overrides:
        key, _, value = override.partition("=")
        choices.append([f"{key}={one}" for one in value.split(",")] if LIST.match(value) else [override])
    return [list(one) for one in product(*choices)]


def as_json(plan: RunPlan) -> dict[str, Any]:
    """A plan as a record keeps it, with the model's name, the learning rate and the estimates."""
    from lorascope.planning.first_guess import rate_of

    entry: dict[str, Any] = {"model": plan.config.model.name, "strategy": plan.config.target.name}
    entry["learning_rate"] = rate_of(plan.config, plan.modules)._asdict()
    if plan.target is None or plan.memory is None or plan.compute is None:
        return entry | {"decided_by": "the base's weights, in the run"}
    compute = {"flop_per_token": plan.compute.total, "flop_per_run": plan.compute.run}
    return entry | plan.target.entry() | {"memory": plan.memory.entry(), "compute": compute}


PLAN = Command(
    "plan",
    "show what one or many strategies would train on a model, before anything is loaded.",
    "lorascope plan target=q_v,qkvo,qv_ffn model=mistral7b",
    _plan_arguments,
    _run_plan,
)
INSPECT = Command(
    "inspect",
    "list a model's attention and FFN modules by layer and role, without loading weights.",
    "lorascope inspect mistral7b",
    _inspect_arguments,
    _run_inspect,
)
