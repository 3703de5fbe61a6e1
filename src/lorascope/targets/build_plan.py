"""Build the plan of a strategy on a model, its ranks scaled to a parameter budget if it has one."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from lorascope.compat import refused_by_peft
from lorascope.config.schema import Ranks, TargetConfig, amount, from_dict
from lorascope.errors import PlanError
from lorascope.targets.module_map import ModuleMap
from lorascope.targets.plan import TargetPlan, lay
from lorascope.targets.selection import cover


def plan_targets(strategy: TargetConfig, modules: ModuleMap) -> TargetPlan:
    """Lay a strategy on a model, its ranks scaled to its budget if it has one.

    Raises:
        PlanError: when the model lacks a role, in all layers or in some, when a budget cannot be met, or settings
            contradict each other on this model.
    """
    if strategy.auto.method is not None:
        raise PlanError(
            f"target.auto.method={strategy.auto.method}",
            "the placement is decided by the base's weights, and none are loaded here.",
            "The run itself decides, shows and records it; a named strategy can be planned now: target=qv_ffn",
        )
    strategy, budget = fit_budget(strategy, modules)
    plan = lay(strategy, cover(strategy, modules), modules, budget)
    check_taken(plan, modules)
    return plan


def check_taken(plan: TargetPlan, modules: ModuleMap) -> None:
    """Refuse modules that PEFT does not adapt in models of this type.

    Raises:
        PlanError: naming the first of them.
    """
    for leaf, one in {module.module.rpartition(".")[2]: module for module in plan.modules}.items():
        if refused_by_peft(modules.model_type, leaf):
            raise PlanError(
                f"target: {one.module}",
                f"PEFT takes no LoRA on {leaf} in a model of type {modules.model_type}.",
                f"Leave it out: target.modules.{leaf}=null, or the role {one.projection.role}.",
            )


def fit_budget(strategy: TargetConfig, modules: ModuleMap) -> tuple[TargetConfig, dict[str, Any]]:
    """The strategy with ranks for its budget, and what a record should say of it; itself where it has none.

    All ranks are multiples of their smallest whole ratio (8 and 4 are 2 and 1), so the reachable counts are multiples
    of one: the nearest is taken.

    Raises:
        PlanError: when the smallest such ranks cost more than the budget.
    """
    if strategy.budget is None:
        return strategy, {}
    asked, of = budget_of(strategy, modules)
    smallest, units = _scaled(strategy, 1)
    alone = dataclasses.replace(smallest, budget=None)
    plan = lay(alone, cover(alone, modules), modules)
    # DoRA's magnitudes and the biases do not grow with the rank
    fixed = sum(one.d_out for one in plan.modules if one.dora) + plan.bias_parameters
    step = plan.trainable_parameters - fixed
    times = round((asked - fixed) / step)
    if asked < step + fixed:
        ranks = ", ".join(f"{name} {rank}" for name, rank in units.items())
        raise PlanError(
            f"target.budget={strategy.budget}",
            f"{asked:,} parameters are fewer than its smallest ranks cost: {step + fixed:,} ({ranks}).",
            "Raise the budget, adapt fewer roles or layers, or bring the ranks closer together.",
        )
    fitted, _ = _scaled(strategy, times)
    reached = times * step + fixed
    return dataclasses.replace(fitted, budget=None), {"budget": {"asked": asked, "of": of, "reached": reached}}


def budget_of(strategy: TargetConfig, modules: ModuleMap) -> tuple[int, str | None]:
    """The budget in parameters, and the strategy it was taken from, if any."""
    if strategy.budget_strategy:
        other: TargetConfig = from_dict(TargetConfig, strategy.budget_strategy)
        return plan_targets(other, modules).trainable_parameters, str(strategy.budget)
    asked = amount(strategy.budget)
    if asked is None:
        raise PlanError(
            f"target.budget={strategy.budget}", "is neither a number nor a strategy.", "Take 10M, 500k, or qv_ffn."
        )
    return asked, None


def _scaled(strategy: TargetConfig, times: int) -> tuple[TargetConfig, dict[str, int]]:
    """The strategy with so many times its smallest ranks, and these."""
    given = strategy.ranks.given()
    ranks = [*given.values(), *strategy.modules.values(), *([strategy.peft_default] if strategy.peft_default else [])]
    divisor = math.gcd(*ranks)
    units = {name: rank // divisor for name, rank in (given | strategy.modules).items()}
    return (
        dataclasses.replace(
            strategy,
            ranks=Ranks(**{name: times * units[name] for name in given}),
            modules={name: times * units[name] for name in strategy.modules},
            peft_default=times if strategy.peft_default else None,
        ),
        units or {"every module": 1},
    )
