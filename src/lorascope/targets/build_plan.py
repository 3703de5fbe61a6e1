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
        PlanError: when the model lacks a role, in all layers or in some, when a budget cannot be met, settings
            contradict each other on this model, or PEFT does not adapt such modules in it.
    """
    if strategy.auto.method is not None:
        raise PlanError(
            f"target.auto.method={strategy.auto.method}",
            "the placement is decided by the base's weights, and none are loaded here.",
            "The run itself decides, shows and records it; a named strategy can be planned now: target=qv_ffn",
        )
    strategy, budget = fit_budget(strategy, modules)
    chosen, notes = cover(strategy, modules)
    plan = lay(strategy, chosen, modules, notes | budget)
    for leaf, one in {planned.name.rpartition(".")[2]: planned for planned in plan.modules}.items():
        if refused_by_peft(modules.model_type, leaf):
            raise PlanError(
                f"target: {one.name}",
                f"PEFT takes no LoRA on {leaf} in a model of type {modules.model_type}.",
                f"Leave it out: target.modules.{leaf}=null, or the role {one.role}.",
            )
    return plan


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
    smallest = _scaled(strategy, 1)
    chosen, _ = cover(smallest, modules)
    plan = lay(smallest, chosen, modules)
    fixed = plan.fixed_parameters
    step = plan.trainable_parameters - fixed
    if asked < step + fixed:
        ranks = smallest.ranks.given() | smallest.modules or {"every module": 1}
        listed = ", ".join(f"{name} {rank}" for name, rank in ranks.items())
        raise PlanError(
            f"target.budget={strategy.budget}",
            f"{asked:,} parameters are fewer than its smallest ranks cost: {step + fixed:,} ({listed}).",
            "Raise the budget, adapt fewer roles or layers, or bring the ranks closer together.",
        )
    times = round((asked - fixed) / step)
    return _scaled(strategy, times), {"budget": {"asked": asked, "of": of, "reached": times * step + fixed}}


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


def _scaled(strategy: TargetConfig, times: int) -> TargetConfig:
    """The strategy with so many times its smallest ranks, and no budget."""
    given = strategy.ranks.given()
    divisor = math.gcd(*given.values(), *strategy.modules.values(), strategy.peft_default or 0)
    return dataclasses.replace(
        strategy,
        ranks=Ranks(**{name: times * rank // divisor for name, rank in given.items()}),
        modules={name: times * rank // divisor for name, rank in strategy.modules.items()},
        peft_default=times if strategy.peft_default else None,
        budget=None,
    )
