"""lorascope plan: show what one or many strategies would train on a model, before anything is loaded."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorascope.config import RunConfig
    from lorascope.estimate.compute import ComputeEstimate
    from lorascope.estimate.fit import Suggestion
    from lorascope.estimate.memory import MemoryEstimate
    from lorascope.targets.module_map import ModuleMap
    from lorascope.targets.plan import TargetPlan

EXAMPLE = "lorascope plan target=q_v,qkvo,qv_ffn model=mistral7b"
LIST = re.compile(r"^[\w./-]+(,[\w./-]+)+$")  # q_v,qkvo: a choice of several; not [a,b] or 'a,b'


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="as for train; KEY=A,B,C gives a row each")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own groups, as for train")
    parser.add_argument("--gpu-memory", metavar="SIZE", help="plan as on a GPU of 24GiB, say, and show what fits")
    parser.add_argument("--json", action="store_true", help="print the plans as JSON, module by module")


@dataclass(frozen=True)
class Planned:
    """One combination of settings, and what came of it."""

    words: list[str]
    config: RunConfig
    modules: ModuleMap
    plan: TargetPlan | None  # None: only the base's weights can decide
    memory: MemoryEstimate | None = None
    compute: ComputeEstimate | None = None
    ways: tuple[Suggestion, ...] = ()


def run(options: argparse.Namespace) -> None:
    """Plan every combination; one alone is shown by layer and role, several as a table."""
    from lorascope.compose import compose
    from lorascope.estimate.fit import parse_bytes
    from lorascope.models.quiet import hush

    gpu = parse_bytes(options.gpu_memory, "--gpu-memory") if options.gpu_memory else None
    configs = [(words, compose(words, options.config_dir)) for words in combinations(options.overrides)]
    hush()
    built: dict[str, Any] = {}
    planned = [_planned(words, config, built, gpu) for words, config in configs]
    if options.json:
        print(json.dumps([as_json(one) for one in planned], indent=1))
    elif len(planned) == 1:
        _show_one(planned[0], gpu)
    else:
        _show_many(planned, options.overrides)


def _planned(words: list[str], config: RunConfig, built: dict[str, Any], gpu: int | None) -> Planned:
    from lorascope.config import Device
    from lorascope.estimate.compute import estimate_compute
    from lorascope.estimate.fit import suggestions, with_checkpointing
    from lorascope.estimate.memory import estimate_memory
    from lorascope.models.device import resolve
    from lorascope.records.memory import free_gpu_bytes
    from lorascope.targets.module_map import read_model
    from lorascope.targets.plan import plan_targets

    key = f"{config.model}"
    built[key] = built.get(key) or read_model(config.model)
    modules, shapes = built[key]
    if config.target.auto.method is not None:
        return Planned(words, config, modules, None)
    plan = plan_targets(config.target, modules)
    device = Device.cuda if gpu else None
    config = config if gpu else resolve(config)
    config = with_checkpointing(config, shapes, plan, gpu or free_gpu_bytes(str(config.device)), device=device)
    return Planned(
        words,
        config,
        modules,
        plan,
        estimate_memory(config, shapes, plan, device=device),
        estimate_compute(config, shapes, plan, device=device),
        tuple(suggestions(config, shapes, plan, gpu)) if gpu else (),
    )


def _show_one(one: Planned, gpu: int | None) -> None:
    from lorascope.estimate.view import lines
    from lorascope.plan_view import show_plan, show_undecided, show_ways
    from lorascope.terminal import console

    out = console()
    if one.plan is None:
        show_undecided(out, one.config.target, one.modules)
        return
    assert one.memory
    assert one.compute
    show_plan(out, one.plan, one.modules)
    for line in lines(one.memory, one.compute):
        out.print(line)
    if gpu:
        show_ways(out, one.ways, gpu)


def _show_many(planned: list[Planned], overrides: list[str]) -> None:
    from lorascope.plan_view import PlanRow, show_plans
    from lorascope.terminal import console

    varying = [word.partition("=")[0] for word in overrides if LIST.match(word.partition("=")[2])]
    rows = [
        PlanRow(
            [word.partition("=")[2] for word in one.words if word.partition("=")[0] in varying],
            one.modules,
            one.plan,
            one.memory.total if one.memory else None,
        )
        for one in planned
    ]
    show_plans(console(), varying, rows)


def combinations(overrides: list[str]) -> list[list[str]]:
    """Every choice of one value for each word that lists several."""
    choices = []
    for word in overrides:
        key, _, value = word.partition("=")
        choices.append([f"{key}={one}" for one in value.split(",")] if LIST.match(value) else [word])
    return [list(one) for one in product(*choices)]


def as_json(one: Planned) -> dict[str, Any]:
    """A plan as a record keeps it, with the model's name and the estimates."""
    entry: dict[str, Any] = {"model": one.config.model.name, "strategy": one.config.target.name}
    if one.plan is None or one.memory is None or one.compute is None:
        return entry | {"decided_by": "the base's weights, in the run"}
    compute = {"flop_per_token": one.compute.total, "flop_per_run": one.compute.run}
    return entry | one.plan.entry() | {"memory": one.memory.entry(), "compute": compute}
