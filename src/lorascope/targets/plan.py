"""A strategy on one module map: exactly which modules are trained, at which rank and alpha, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lorascope.config import GROUPS, AlphaPolicy, TargetConfig
from lorascope.errors import PlanError
from lorascope.targets.module_map import ModuleMap, Projection

PROPORTIONAL_RANK = 8  # the rank at which a proportional alpha is the one that was given


@dataclass(frozen=True)
class PlannedModule:
    """One module that gets an adapter."""

    module: str
    layer: int
    role: str
    rank: int
    alpha: float
    scale: float
    d_in: int
    d_out: int

    @property
    def parameters(self) -> int:
        """Parameters of A (rank x d_in) and B (d_out x rank)."""
        return self.rank * (self.d_in + self.d_out)


@dataclass(frozen=True)
class TargetPlan:
    """What a run will train, module by module."""

    strategy: str
    alpha_policy: AlphaPolicy
    lora_dropout: float
    modules: tuple[PlannedModule, ...]
    base_parameters: int

    @property
    def trainable_parameters(self) -> int:
        """Parameters that the optimizer will move."""
        return sum(module.parameters for module in self.modules)

    @property
    def stored_parameters(self) -> int:
        """Parameters in the adapter's file; the same, as long as no part of a fused module is adapted."""
        return self.trainable_parameters

    @property
    def trainable_percent(self) -> float:
        """Trainable parameters in percent of the base's."""
        return 100 * self.trainable_parameters / self.base_parameters

    def entry(self) -> dict[str, Any]:
        """The plan as a record keeps it."""
        keys = ("layer", "role", "rank", "alpha", "scale", "parameters")
        return {
            "strategy": self.strategy,
            "trainable_parameters": self.trainable_parameters,
            "stored_parameters": self.stored_parameters,
            "trainable_percent": self.trainable_percent,
            "base_parameters": self.base_parameters,
            "alpha_policy": str(self.alpha_policy),
            "modules": [{"name": one.module} | {key: getattr(one, key) for key in keys} for one in self.modules],
        }

    @property
    def scales(self) -> dict[int, float]:
        """The adapter's scale at each rank that occurs."""
        return {module.rank: module.scale for module in sorted(self.modules, key=lambda m: -m.rank)}


def plan_targets(strategy: TargetConfig, modules: ModuleMap) -> TargetPlan:
    """Lay a strategy on a model.

    Raises:
        PlanError: when the model lacks a role, in all layers or in some, or has it in a fused module.
    """
    chosen = _by_peft(strategy.peft_default, modules) if strategy.peft_default else _by_role(strategy, modules)
    planned = []
    for projection, rank in chosen:
        alpha, scale = alpha_and_scale(strategy, rank)
        assert projection.d_out is not None
        planned.append(
            PlannedModule(
                module=projection.module,
                layer=projection.layer,
                role=projection.role,
                rank=rank,
                alpha=alpha,
                scale=scale,
                d_in=projection.d_in,
                d_out=projection.d_out,
            )
        )
    return TargetPlan(
        strategy=strategy.name or "custom",
        alpha_policy=strategy.alpha_policy,
        lora_dropout=strategy.lora_dropout,
        modules=tuple(planned),
        base_parameters=modules.parameters,
    )


def _by_role(strategy: TargetConfig, modules: ModuleMap) -> list[tuple[Projection, int]]:
    """The projections that have a rank."""
    ranks = ranks_by_role(strategy, modules)
    chosen = [(projection, ranks[projection.role]) for projection in modules.projections if projection.role in ranks]
    for projection, _ in chosen:
        if projection.fused_with:
            raise _fused(projection, modules)
    return chosen


def _by_peft(rank: int, modules: ModuleMap) -> list[tuple[Projection, int]]:
    """The modules that PEFT takes when no target is named; a fused one as a whole, its roles joined by '+'."""
    from lorascope.targets.peft_default import default_modules

    return [(projection, rank) for projection in default_modules(modules)]


def ranks_by_role(strategy: TargetConfig, modules: ModuleMap) -> dict[str, int]:
    """A rank for each role of the model; a role's own entry wins over its group's, a group's over `all`.

    Raises:
        PlanError: for a role or group that the model, or some of its layers, lacks.
    """
    given = strategy.ranks.given()
    ranks: dict[str, int] = {}
    for name in sorted(given, key=lambda name: -len(GROUPS.get(name, (name,)))):
        members = [role for role in GROUPS.get(name, (name,)) if role in modules.roles]
        if not members:
            raise _absent(name, modules)
        ranks |= dict.fromkeys(members, given[name])
    for role in ranks:
        if holes := modules.missing(role):
            raise PlanError(
                "target.ranks",
                f"role '{role}' is missing on layers {spans(holes)} of {modules.name}, which has {modules.layers}.",
                "An arm would not be what its name says; choose roles that every layer has.",
            )
    return ranks


def alpha_and_scale(strategy: TargetConfig, rank: int) -> tuple[float, float]:
    """Alpha as PEFT takes it, and the factor by which B A x is added."""
    if strategy.alpha_policy is AlphaPolicy.proportional:
        alpha = strategy.alpha * rank / PROPORTIONAL_RANK
        return alpha, alpha / rank
    if strategy.alpha_policy is AlphaPolicy.rslora:
        return strategy.alpha, strategy.alpha / math.sqrt(rank)
    return strategy.alpha, strategy.alpha / rank


def _absent(name: str, modules: ModuleMap) -> PlanError:
    there = ", ".join(f"{role} (fused)" if modules.of_role(role)[0].fused_with else role for role in modules.roles)
    remedy = f"Take of these, or a group: {', '.join(GROUPS)}."
    if name in GROUPS["ffn"] and any(role in modules.roles for role in GROUPS["ffn"]):
        remedy = "Use 'ffn' for whatever the FFN has:   ranks: {ffn: 4}"
    return PlanError("target.ranks", f"role '{name}' is absent in {modules.name}; it has {there}.", remedy)


def _fused(projection: Projection, modules: ModuleMap) -> PlanError:
    return PlanError(
        "target.ranks",
        f"role '{projection.role}' of {modules.name} is a part of the fused module {projection.module} "
        f"({', '.join(projection.fused_with)}).",
        "An adapter on a part of a fused module is not built yet; choose roles that stand alone: "
        f"{', '.join(role for role in modules.roles if not modules.of_role(role)[0].fused_with)}.",
    )


def spans(numbers: Iterable[int]) -> str:
    """Layer numbers in short: 0-3, 7."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)
