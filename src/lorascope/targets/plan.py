"""The plan of a strategy on a model: exact modules, ranks, alphas and parameter counts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lorascope.config.schema import HIGHEST_RANK, AlphaPolicy, Bias, Init, TargetConfig
from lorascope.errors import PlanError
from lorascope.targets.biases import trained_biases
from lorascope.targets.module_map import BiasTerm, ModuleMap, Projection
from lorascope.targets.selection import Selection

PROPORTIONAL_RANK = 8  # the rank at which a proportional alpha is the one that was given


@dataclass(frozen=True)
class PlannedModule:
    """One projection that gets an adapter."""

    projection: Projection
    rank: int
    alpha: float
    scale: float
    dora: bool = False

    @property
    def module(self) -> str:
        """The module's path inside the model, an expert stack's parameter behind it."""
        stack = self.projection.experts > 1 or self.projection.parameter not in ("weight", "embedding")
        return f"{self.projection.module}.{self.projection.parameter}" if stack else self.projection.module

    @property
    def layer(self) -> int:
        """The layer, -1 outside the blocks."""
        return self.projection.layer

    @property
    def role(self) -> str:
        """The role; of a fused module as a whole, all its roles joined by '+'."""
        return self.projection.role

    @property
    def d_in(self) -> int:
        """Width of the input."""
        return self.projection.d_in

    @property
    def d_out(self) -> int:
        """Width of the output, of the part's alone in a fused module."""
        assert self.projection.d_out is not None
        return self.projection.d_out

    @property
    def parameters(self) -> int:
        """Parameters of A (rank x d_in) and B (d_out x rank), for each expert; DoRA adds a magnitude a row."""
        return self.projection.parameters(self.rank) + (self.d_out if self.dora else 0)

    @property
    def key(self) -> str:
        """What A's start is drawn for, besides seed and layer: the role, or the n-th module of that role."""
        return f"{self.role}#{self.projection.ordinal}" if self.projection.ordinal else self.role


@dataclass(frozen=True)
class Site:
    """One LoRA as PEFT builds it: on a whole module, or on the planned parts of a fused one."""

    parts: tuple[PlannedModule, ...]

    @property
    def module(self) -> str:
        """The path, an expert stack's parameter behind it."""
        return self.parts[0].module

    @property
    def rank(self) -> int:
        """The parts' ranks together: each has columns of B for itself."""
        return sum(part.rank for part in self.parts)

    @property
    def scale(self) -> float:
        """The parts' common scale."""
        return self.parts[0].scale

    @property
    def blocked(self) -> bool:
        """Whether B has rows that stay zero."""
        return self.parts[0].projection.rows is not None

    @property
    def stored(self) -> int:
        """Parameters in the adapter's file, the zeros too."""
        projection = self.parts[0].projection
        magnitudes = projection.width if self.parts[0].dora else 0
        return projection.experts * self.rank * (projection.d_in + projection.width) + magnitudes


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
            by_module.setdefault(planned.module, []).append(planned)
        return tuple(Site(tuple(parts)) for parts in by_module.values())

    @property
    def trainable_parameters(self) -> int:
        """Parameters that the optimizer will move."""
        return sum(module.parameters for module in self.modules) + self.bias_parameters

    @property
    def bias_parameters(self) -> int:
        """Of them, those in the base's biases."""
        return sum(term.parameters for term in self.biases)

    @property
    def stored_parameters(self) -> int:
        """Parameters in the adapter's file; more than are trained where a part of a fused module is adapted."""
        return sum(site.stored for site in self.sites) + sum(term.size for term in self.biases)

    @property
    def trainable_percent(self) -> float:
        """Trainable parameters in percent of the base's."""
        return 100 * self.trainable_parameters / self.base_parameters

    def entry(self) -> dict[str, Any]:
        """The plan as a record keeps it."""
        keys = ("layer", "role", "rank", "alpha", "scale", "parameters")
        modules = []
        for one in self.modules:
            entry = {"name": one.module} | {key: getattr(one, key) for key in keys}
            if one.projection.rows is not None:
                entry |= {"rows": one.d_out, "of_rows": one.projection.width}
            modules.append(entry)
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
    strategy: TargetConfig, coverage: Selection, modules: ModuleMap, notes: dict[str, Any] | None = None
) -> TargetPlan:
    """A plan from projections with ranks.

    Raises:
        PlanError: when settings contradict each other on this model.
    """
    planned = []
    for projection, rank in coverage.chosen:
        alpha, scale = alpha_and_scale(strategy, rank)
        planned.append(PlannedModule(projection, rank, alpha, scale, strategy.dora))
    plan = TargetPlan(
        strategy=strategy.name or "custom",
        alpha_policy=strategy.alpha_policy,
        lora_dropout=strategy.lora_dropout,
        modules=tuple(planned),
        base_parameters=modules.parameters,
        init=strategy.init,
        dora=strategy.dora,
        bias=strategy.bias,
        biases=trained_biases(strategy.bias, (projection for projection, _ in coverage.chosen), modules),
        notes=coverage.notes | (notes or {}),
    )
    _check(plan)
    return plan


def alpha_and_scale(strategy: TargetConfig, rank: int) -> tuple[float, float]:
    """Alpha as PEFT takes it, and the factor by which B A x is added."""
    if strategy.alpha_policy is AlphaPolicy.proportional:
        alpha = strategy.alpha * rank / PROPORTIONAL_RANK
        return alpha, alpha / rank
    if strategy.alpha_policy is AlphaPolicy.rslora:
        return strategy.alpha, strategy.alpha / math.sqrt(rank)
    return strategy.alpha, strategy.alpha / rank


def _check(plan: TargetPlan) -> None:
    """Refuse what PEFT cannot build, or would build as something else."""
    if widest := [one for one in plan.modules if one.rank > HIGHEST_RANK]:
        raise PlanError(
            "target.ranks",
            f"{widest[0].role} would get rank {widest[0].rank:,}; {HIGHEST_RANK:,} is the highest.",
            "Lower target.budget, or spread it over more roles and layers.",
        )
    for site in plan.sites:
        scales = {part.scale for part in site.parts}
        ranks = ", ".join(f"{part.role} r{part.rank}" for part in site.parts)
        if len(scales) > 1:
            raise PlanError(
                "target.ranks",
                f"{ranks} are parts of one module ({site.module}) and would need scales of their own "
                f"({', '.join(f'{scale:.4g}' for scale in sorted(scales))}); one LoRA has one.",
                "Give the parts one rank, or   alpha_policy: proportional   which keeps the scale at every rank.",
            )
        what = f"on {ranks}, parts of the fused module {site.module}" if site.blocked else ""
        if site.blocked and plan.dora:
            raise PlanError(
                "target.dora", f"cannot stand {what}: its magnitudes would move every row.", "Take target.fused=native."
            )
        if site.blocked and plan.init is not Init.lora:
            raise PlanError(
                f"target.init={plan.init}",
                f"cannot stand {what}: it would fill the rows that are to stay as they are.",
                "Take target.fused=native, or target.init=lora.",
            )
    if stacks := [site for site in plan.sites if site.parts[0].projection.experts > 1]:
        _check_stacks(plan, stacks[0].module)


def _check_stacks(plan: TargetPlan, name: str) -> None:
    """Refuse what PEFT does not offer for experts that are one parameter."""
    if plan.lora_dropout:
        raise PlanError(
            "target.lora_dropout",
            f"{plan.lora_dropout} cannot be applied to experts that are one parameter ({name}).",
            "Take target.lora_dropout=0, for all arms of a comparison.",
        )
    for setting, value in (("target.dora", plan.dora), (f"target.init={plan.init}", plan.init is not Init.lora)):
        if value:
            raise PlanError(
                setting,
                f"PEFT does not offer it for experts that are one parameter ({name}).",
                "Leave it out, or choose roles of the attention.",
            )
