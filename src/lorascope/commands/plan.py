"""lorascope plan: show what one or many strategies would train on a model, before anything is loaded."""

from __future__ import annotations

import argparse
import json
import re
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorascope.config import RunConfig
    from lorascope.targets.module_map import ModuleMap
    from lorascope.targets.plan import TargetPlan

EXAMPLE = "lorascope plan target=q_v,qkvo,qv_ffn model=mistral7b"
LIST = re.compile(r"^[\w./-]+(,[\w./-]+)+$")  # q_v,qkvo: a choice of several; not [a,b] or 'a,b'


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="as for train; KEY=A,B,C gives a row each")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own groups, as for train")
    parser.add_argument("--json", action="store_true", help="print the plans as JSON, module by module")


def run(options: argparse.Namespace) -> None:
    """Plan every combination; one alone is shown by layer and role, several as a table."""
    from lorascope.compose import compose
    from lorascope.models.quiet import hush
    from lorascope.targets.module_map import inspect_model
    from lorascope.targets.plan import plan_targets
    from lorascope.terminal import console, show_plan, show_plans

    configs = [(words, compose(words, options.config_dir)) for words in combinations(options.overrides)]
    hush()
    plans = []
    maps: dict[str, ModuleMap] = {}
    for words, config in configs:
        key = f"{config.model}"
        maps[key] = maps.get(key) or inspect_model(config.model)
        plans.append((words, config, maps[key], plan_targets(config.target, maps[key])))
    if options.json:
        print(json.dumps([as_json(config, plan) for _, config, _, plan in plans], indent=1))
    elif len(plans) == 1:
        show_plan(console(), plans[0][3], plans[0][2])
    else:
        varying = [word.partition("=")[0] for word in options.overrides if LIST.match(word.partition("=")[2])]
        rows = [
            ([word.partition("=")[2] for word in words if word.partition("=")[0] in varying], modules, plan)
            for words, _, modules, plan in plans
        ]
        show_plans(console(), varying, rows)


def combinations(overrides: list[str]) -> list[list[str]]:
    """Every choice of one value for each word that lists several."""
    choices = []
    for word in overrides:
        key, _, value = word.partition("=")
        choices.append([f"{key}={one}" for one in value.split(",")] if LIST.match(value) else [word])
    return [list(one) for one in product(*choices)]


def as_json(config: RunConfig, plan: TargetPlan) -> dict[str, Any]:
    """A plan as a record keeps it, with the model's name."""
    return {"model": config.model.name} | plan.entry()
