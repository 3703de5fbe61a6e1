"""Choose the placement from the base's weights and a few prompts.

PLoP takes module types, KappaTune modules, EVA ranks; each is brought as near to the budget as whole ranks allow, and
the plan's notes keep what was measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from lorascope.config.schema import Auto, AutoConfig, Fused, Init, Missing, Ranks, TargetConfig
from lorascope.errors import PlanError
from lorascope.targets import eva
from lorascope.targets.auto_scores import condition_number, feature_norms
from lorascope.targets.build_plan import budget_of
from lorascope.targets.module_map import ModuleMap
from lorascope.targets.plan import TargetPlan, lay
from lorascope.targets.selection import Chosen, chosen_layers, cover
from lorascope.targets.weights import Projection

if TYPE_CHECKING:
    from lorascope.targets.auto_scores import Batch
    from lorascope.targets.eva import Components


RHO = 2  # a module's rank may grow to so many times the mean rank, PEFT's default for EVA
UNREAD = "no module of this model reads its tokens in rows and positions, as the prompts have them."


def plan_automatically(
    strategy: TargetConfig, modules: ModuleMap, base: Any, batches: Iterable[Batch]
) -> tuple[TargetPlan, Components | None]:
    """Score a loaded base, choose under the budget, and lay what was chosen.

    Args:
        strategy: with `auto.method` and a budget.
        modules: the base's module map.
        base: the frozen base, quantized or not; it is left as it is.
        batches: of prompts: `input_ids`, `attention_mask` and `labels`, each (rows, width), on the base's device; kappa
            reads none.

    Returns:
        The plan, and where A starts by EVA's components, None for the other methods.

    Raises:
        PlanError: when nothing can be adapted, the budget is too small, or settings contradict each other.
    """
    method = strategy.auto.method
    assert method
    asked, of = budget_of(strategy, modules)
    candidates, experts, notes = _candidates(strategy, modules)
    if method is Auto.eva:
        strategy = dataclasses.replace(strategy, init=Init.eva)
    search = _Search(strategy, modules, base, list(batches), asked, candidates)
    choose = {Auto.plop: search.by_feature_norms, Auto.kappa: search.by_condition, Auto.eva: search.by_variance}
    choice = choose[method]()
    unscored = [one for one in candidates if one not in choice.scored]
    why = "modules too large for the selector" if method is Auto.kappa else "modules that do not read every token"
    left_out = _left_out({"experts that are one parameter": experts, why: unscored})
    holes = {role: layers for role, layers in notes.pop("missing", {}).items() if role in choice.notes["chosen"]}
    notes |= {"missing": holes} if holes else {}
    auto = {"method": str(method)} | choice.notes | {"left_out": left_out}
    plan = lay(strategy, choice.chosen, modules, notes | {"auto": auto})
    budget = {"asked": asked, "of": of, "reached": plan.trainable_parameters}
    return dataclasses.replace(plan, notes=plan.notes | {"budget": budget}), choice.start


def _candidates(
    strategy: TargetConfig, modules: ModuleMap
) -> tuple[list[Projection], list[Projection], dict[str, Any]]:
    """Linear modules with a role on the chosen layers, experts, which are left out, and what else a record should say.

    KappaTune and EVA look at modules, so that fused ones are taken whole.
    """
    layers = set(chosen_layers(strategy.layers, modules.layers))
    roles = {one.role for one in modules.projections if one.layer in layers}
    roles -= set() if strategy.auto.mixers else {"mixer"}
    every = dataclasses.replace(
        strategy,
        ranks=Ranks(**dict.fromkeys(roles, 1)),
        modules={},
        auto=AutoConfig(),
        missing=Missing.allow,
        fused=strategy.fused if strategy.auto.method is Auto.plop else Fused.native,
    )
    chosen, notes = cover(every, modules)
    found = [one for one, _ in chosen]
    linear = [one for one in found if one.experts == 1 and one.parameter == "weight"]
    if not linear:
        raise _nothing(strategy, f"{modules.name} has no linear module with a role on the chosen layers.")
    return linear, [one for one in found if one not in linear], notes


def _left_out(reasons: Mapping[str, Iterable[Projection]]) -> dict[str, str]:
    """Why projections are not placed on, by role, for the record."""
    found: dict[str, list[str]] = {}
    for why, projections in reasons.items():
        for role, count in Counter(one.role for one in projections).items():
            found.setdefault(role, []).append(f"{why} ({count})")
    return {role: ", ".join(those) for role, those in found.items()}


def _nothing(strategy: TargetConfig, why: str) -> PlanError:
    remedy = "Choose other layers, or name roles: target=qv_ffn"
    return PlanError(f"target.auto.method={strategy.auto.method}", why, remedy)


def _mean_by_role(values: Mapping[Projection, float]) -> dict[str, float]:
    by_role: dict[str, list[float]] = {}
    for one, value in values.items():
        by_role.setdefault(one.role, []).append(value)
    return {role: fmean(those) for role, those in by_role.items()}


class _Choice(NamedTuple):
    """What a method chose, of which projections, and what a record should say of it."""

    chosen: list[Chosen]
    scored: Collection[Projection]
    notes: dict[str, Any]
    start: Components | None = None


@dataclass(frozen=True)
class _Search:
    """What a method chooses from, and what it may cost."""

    strategy: TargetConfig
    modules: ModuleMap
    base: Any
    batches: Sequence[Batch]
    asked: int  # parameters
    candidates: Sequence[Projection]

    def by_feature_norms(self) -> _Choice:
        """The module types with the lowest scores, all at one rank."""
        scores = feature_norms(self.base, self.candidates, self.batches)
        means = _mean_by_role(scores)
        if not means:
            raise _nothing(self.strategy, UNREAD)
        if infinite := [role for role, mean in means.items() if not math.isfinite(mean)]:
            raise PlanError(
                "target.auto.method=plop",
                f"the feature norms of {', '.join(infinite)} are not finite in {self.base.dtype}.",
                "Take model.dtype=bfloat16 or float32, or name roles: target=qv_ffn",
            )
        types = sorted(means, key=lambda role: means[role])[: self.strategy.auto.types]
        chosen = self.at_one_rank([one for one in scores if one.role in types], "lower target.auto.types")
        read = eva.Prompts(self.batches, answers=False).entry()
        return _Choice(chosen, scores, read | {"scores": means, "chosen": types})

    def by_condition(self) -> _Choice:
        """The share of the modules with the lowest condition numbers, all at one rank."""
        numbers = {one: condition_number(self.base.get_submodule(one.module)) for one in self.candidates}
        known = {one: number for one, number in numbers.items() if number is not None}
        count = max(1, int(len(known) * self.strategy.auto.share))  # as PEFT's selector takes its share
        lowest = sorted(known, key=lambda one: known[one])[:count]
        chosen = self.at_one_rank([one for one in known if one in lowest], "lower target.auto.share")
        scores = {one.module: number for one, number in known.items()}
        return _Choice(chosen, known, {"scores": scores, "chosen": [one.module for one in lowest]})

    def by_variance(self) -> _Choice:
        """Ranks by the variance of its inputs that a component explains.

        PEFT hands out as many components as whole mean ranks give, somewhat more than the budget; those that explain
        least are then given up, which is what PEFT would have done with fewer to hand out.
        """
        paths = eva.readable(self.base, [one.module for one in self.candidates], self.batches[0])
        places = {one.module: one for one in self.candidates if one.module in paths}
        if not places:
            raise _nothing(self.strategy, UNREAD)
        biases = self.at_rank_1(places.values()).bias_parameters
        if self.asked <= biases:
            raise self.too_small(f"the biases take {biases:,}", "take target.bias=none")
        asked = self.asked - biases  # a module that gets no component will not train its own after all
        found, prompts = self.enough_components(places, asked)
        costs = {path: one.parameters_at(1) for path, one in places.items()}
        ranks = eva.ranks_within(eva.explained(self.base, found, prompts), costs, asked)
        if not any(ranks.values()):
            raise self.too_small(f"the cheapest component costs {min(costs.values()):,}", "take fewer layers")
        counts = Counter(ranks.values())
        notes = prompts.entry() | {
            "positions": "answers" if prompts.answers else "all",
            "scores": _mean_by_role({one: ranks[path] for path, one in places.items()}),  # mean ranks
            "chosen": {str(rank): counts[rank] for rank in sorted(counts)},  # rank -> modules
        }
        start = {path: found[path][:rank].clone() for path, rank in ranks.items() if rank}
        return _Choice([(places[path], ranks[path]) for path in start], set(places.values()), notes, start)

    def enough_components(self, places: Mapping[str, Projection], asked: int) -> tuple[Components, eva.Prompts]:
        """Components that cost at least the budget, up to RHO times the mean rank in a module."""
        mean = asked / sum(one.parameters_at(1) for one in places.values())
        narrowest = min(places.values(), key=lambda one: one.d_in)
        rank = math.floor(mean) + 1
        while True:
            most = max(rank, round(RHO * mean))
            if most > narrowest.d_in:
                raise PlanError(
                    "target.budget",
                    f"{asked:,} parameters are up to rank {most} a module, and {narrowest.module} reads "
                    f"{narrowest.d_in} numbers: it has no more components.",
                    "Lower the budget.",
                )
            prompts = eva.prompts_for(self.batches, most)
            found = eva.components(self.base, list(places), rank, prompts, most=most)
            cost = sum(one.parameters_at(len(found[path])) for path, one in places.items())
            if cost >= asked:
                return found, prompts
            rank = max(rank + 1, math.ceil(rank * asked / cost))

    def at_one_rank(self, projections: Sequence[Projection], fewer: str) -> list[Chosen]:
        """The projections at the rank that comes nearest to the budget; a PlanError when rank 1 costs more."""
        plan = self.at_rank_1(projections)
        least, fixed = plan.trainable_parameters, plan.fixed_parameters
        if not projections or self.asked < least:
            why = f"rank 1 costs {least:,} on the {len(projections)} projections that were chosen"
            raise self.too_small(why, fewer)
        return [(one, round((self.asked - fixed) / (least - fixed))) for one in projections]

    def at_rank_1(self, projections: Iterable[Projection]) -> TargetPlan:
        """What the smallest ranks would train."""
        return lay(self.strategy, [(one, 1) for one in projections], self.modules)

    def too_small(self, why: str, or_else: str) -> PlanError:
        """The error for a budget that is too small."""
        place = f"target.budget={self.strategy.budget}"
        return PlanError(place, f"{self.asked:,} parameters are too few: {why}.", f"Raise the budget, or {or_else}.")
