"""The plan of a strategy on a model: exact modules, ranks, alphas and parameter counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lorascope.config.schema import HIGHEST_RANK, AlphaPolicy, Bias, Init, TargetConfig
from lorascope.errors import PlanError
from lorascope.targets.module_map import BiasTerm, ModuleMap
from lorascope.targets.selection import Chosen
from lorascope.targets.weights import Projection

PROPORTIONAL_RANK = 8  # the rank at which a proportional alpha is the one that was given


@dataclass(frozen=True, kw_only=True)
class PlannedModule(Projection):
    """A projection that gets an adapter: a role's, or a fused module as a whole, its roles joined by '+'."""

    d_out: int
    rank: int
    alpha: float  # as PEFT takes it
    scale: float  # by which B A x is added
    dora: bool = False

    @property
    def parameters(self) -> int:
        """Parameters of A (rank x d_in) and B (d_out x rank), for each expert; DoRA adds a magnitude a row."""
        return self.parameters_at(self.rank) + (self.d_out if self.dora else 0)

    @property
    def key(self) -> str:
        """What A's start is drawn for, besides seed and layer: the role, or the n-th module of that role."""
        return f"{self.role}#{self.ordinal}" if self.ordinal else self.role


@dataclass(frozen=True, kw_only=True)
class Site(PlannedModule):
    """One LoRA as PEFT builds it: on a whole module, or on the planned parts of a fused one, with their ranks together.

    Its rows are None where it is on the whole module; else B has rows that stay zero.
    """

    parts: tuple[PlannedModule, ...]


@dataclass(frozen=True)
class TargetPlan:
    """What a run will train, module by module."""

    strategy: str
    alpha_policy: AlphaPolicy
    lora_dropout: float
    modules: tuple[PlannedModule, ...]
    base_parameters: int
    init: Init = Init.lora
    dora: bool = False
    bias: Bias = Bias.none
    biases: tuple[BiasTerm, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)  # what else a record should say: missing, fused, budget, auto

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The LoRAs that PEFT builds."""
        by_module: dict[str, list[PlannedModule]] = {}
        for planned in self.modules:
            by_module.setdefault(planned.name, []).append(planned)
        return tuple(self._site(parts) for parts in by_module.values())

    def _site(self, parts: list[PlannedModule]) -> Site:
        one, rank = parts[0], sum(part.rank for part in parts)  # each part has columns of B for itself
        whole = {"role": "+".join(part.role for part in parts), "d_out": one.width, "rank": rank}
        if len(parts) > 1:  # the alpha that gives them their common scale
            whole["alpha"] = one.scale * (rank**0.5 if self.alpha_policy is AlphaPolicy.rslora else rank)
        return Site(**vars(one) | whole, parts=tuple(parts))

    @property
    def trainable_parameters(self) -> int:
        """Parameters that the optimizer will move."""
        return sum(module.parameters for module in self.modules) + self.bias_parameters

    @property
    def bias_parameters(self) -> int:
        """Of them, those in the base's biases."""
        return sum(term.parameters for term in self.biases)

    @property
    def fixed_parameters(self) -> int:
        """Of the trainable ones, those that do not grow with the rank: DoRA's magnitudes and the biases."""
        return sum(one.d_out for one in self.modules if one.dora) + self.bias_parameters

    @property
    def stored_parameters(self) -> int:
        """Parameters in the adapter's file; more than are trained where a part of a fused module is adapted."""
        return sum(site.parameters for site in self.sites) + sum(term.size for term in self.biases)

    @property
    def trainable_percent(self) -> float:
        """Trainable parameters in percent of the base's."""
        return 100 * self.trainable_parameters / self.base_parameters

    def entry(self) -> dict[str, Any]:
        """The plan as a record keeps it."""
        keys = ("name", "layer", "role", "rank", "alpha", "scale", "parameters")
        modules = [
            {key: getattr(one, key) for key in keys}
            | ({"rows": one.d_out, "of_rows": one.width} if one.rows is not None else {})
            for one in self.modules
        ]
        biases = {"bias": str(self.bias), "bias_parameters": self.bias_parameters} if self.bias is not Bias.none else {}
        return {
            "strategy": self.strategy,
            "trainable_parameters": self.trainable_parameters,
            "stored_parameters": self.stored_parameters,
            "trainable_percent": self.trainable_percent,
            "base_parameters": self.base_parameters,
            "alpha_policy": str(self.alpha_policy),
            "init": str(self.init),
            "dora": self.dora,
            **biases,
            **self.notes,
            "modules": modules,
        }

    @property
    def scales(self) -> dict[int, float]:
        """The adapter's scale at each rank that occurs."""
        return {module.rank: module.scale for module in sorted(self.modules, key=lambda m: -m.rank)}


def lay(
    strategy: TargetConfig, chosen: Sequence[Chosen], modules: ModuleMap, notes: dict[str, Any] | None = None
) -> TargetPlan:
    """A plan from projections with ranks.

    Raises:
        PlanError: when settings contradict each other on this model.
    """
    plan = TargetPlan(
        strategy=strategy.name or "custom",
        alpha_policy=strategy.alpha_policy,
        lora_dropout=strategy.lora_dropout,
        modules=tuple(_planned(strategy, projection, rank) for projection, rank in chosen),
        base_parameters=modules.parameters,
        init=strategy.init,
        dora=strategy.dora,
        bias=strategy.bias,
        biases=modules.trained_biases(strategy.bias, (projection for projection, _ in chosen)),
        notes=notes or {},
    )
    _check(plan)
    return plan


def alpha_and_scale(strategy: TargetConfig, rank: int) -> tuple[float, float]:
    """Alpha as PEFT takes it, and the factor by which B A x is added."""
    proportional = strategy.alpha_policy is AlphaPolicy.proportional
    alpha = strategy.alpha * rank / PROPORTIONAL_RANK if proportional else strategy.alpha
    return alpha, alpha / (math.sqrt(rank) if strategy.alpha_policy is AlphaPolicy.rslora else rank)


def _planned(strategy: TargetConfig, projection: Projection, rank: int) -> PlannedModule:
    alpha, scale = alpha_and_scale(strategy, rank)
    return PlannedModule(**vars(projection), rank=rank, alpha=alpha, scale=scale, dora=strategy.dora)


def _check(plan: TargetPlan) -> None:
    """Refuse what PEFT cannot build, or would build as something else."""
    if widest := [one for one in plan.modules if one.rank > HIGHEST_RANK]:
        raise PlanError(
            "target.ranks",
            f"{widest[0].role} would get rank {widest[0].rank:,}; {HIGHEST_RANK:,} is the highest.",
            "Lower target.budget, or spread it over more roles and layers.",
        )
    for site in plan.sites:
        _check_parts(plan, site)
    stacks = [site for site in plan.sites if site.experts > 1]
    if stacks and plan.lora_dropout:
        raise PlanError(
            "target.lora_dropout",
            f"{plan.lora_dropout} cannot be applied to experts that are one parameter ({stacks[0].name}).",
            "Take target.lora_dropout=0, for all arms of a comparison.",
        )
    if stacks and (plan.dora or plan.init is not Init.lora):
        raise PlanError(
            "target.dora" if plan.dora else f"target.init={plan.init}",
            f"PEFT does not offer it for experts that are one parameter ({stacks[0].name}).",
            "Leave it out, or choose roles of the attention.",
        )


def _check_parts(plan: TargetPlan, site: Site) -> None:
    """Refuse what one LoRA on parts of a module cannot do."""
    scales = {part.scale for part in site.parts}
    ranks = ", ".join(f"{part.role} r{part.rank}" for part in site.parts)
    if len(scales) > 1:
        raise PlanError(
            "target.ranks",
            f"{ranks} are parts of one module ({site.name}) and would need scales of their own "
            f"({', '.join(f'{scale:.4g}' for scale in sorted(scales))}); one LoRA has one.",
            "Give the parts one rank, or   alpha_policy: proportional   which keeps the scale at every rank.",
        )
    if site.rows is None:
        return
    cannot = f"cannot stand on {ranks}, parts of the fused module {site.name}"
    if plan.dora:
        raise PlanError("target.dora", f"{cannot}: its magnitudes would move every row.", "Take target.fused=native.")
    if plan.init is not Init.lora:
        raise PlanError(
            f"target.init={plan.init}",
            f"{cannot}: it would fill the rows that are to stay as they are.",
            "Take target.fused=native, or target.init=lora.",
        )
