"""Choose the placement from the base's weights and a few prompts.

PLoP takes module types, KappaTune modules, EVA ranks; each is brought as near to the budget as whole ranks allow, and
the plan's notes keep what was measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lorascope.config.schema import Auto, AutoConfig, Fused, Init, Missing, Ranks, TargetConfig
from lorascope.errors import PlanError
from lorascope.targets import eva
from lorascope.targets.auto_scores import condition_number, feature_norms, real_tokens
from lorascope.targets.biases import trained_biases
from lorascope.targets.build_plan import budget_of
from lorascope.targets.module_map import ModuleMap, Projection
from lorascope.targets.plan import TargetPlan, lay
from lorascope.targets.selection import Chosen, Selection, chosen_layers, cover

if TYPE_CHECKING:
    import torch

    from lorascope.targets.auto_scores import Batch


RHO = 2  # a module's rank may grow to so many times the mean rank, PEFT's default for EVA
UNREAD = "no module of this model reads its tokens in rows and positions, as the prompts have them."


def plan_automatically(
    strategy: TargetConfig, modules: ModuleMap, base: Any, batches: Iterable[Batch]
) -> tuple[TargetPlan, eva.Start | None]:
    """Score a loaded base, choose under the budget, and lay what was chosen.

    Args:
        strategy: with `auto.method` and a budget.
        modules: the base's module map.
        base: the frozen base, quantized or not; it is left as it is.
        batches: of prompts: `input_ids`, `attention_mask` and `labels`, each (rows, width), on the base's device; kappa
            reads none.

    Returns:
        The plan, and what `training.start` needs besides: EVA's components, None for the others.

    Raises:
        PlanError: when nothing can be adapted, the budget is too small, or settings contradict each other.
    """
    asked, of = budget_of(strategy, modules)
    candidates, left_out, notes = _candidates(strategy, modules)
    batches = list(batches)
    start = None
    if strategy.auto.method is Auto.plop:
        chosen, found = _by_feature_norms(strategy, modules, candidates, base, batches, asked)
    elif strategy.auto.method is Auto.kappa:
        chosen, found = _by_condition(strategy, modules, candidates, base, asked)
    else:
        strategy = dataclasses.replace(strategy, init=Init.eva)
        chosen, found, start = _by_variance(strategy, modules, candidates, base, batches, asked)
    found["left_out"] = _together(left_out, found["left_out"])
    holes = {role: layers for role, layers in notes.pop("missing", {}).items() if role in found["chosen"]}
    notes |= {"missing": holes} if holes else {}
    plan = lay(
        strategy, Selection(tuple(chosen), notes), modules, {"auto": {"method": str(strategy.auto.method)} | found}
    )
    budget = {"asked": asked, "of": of, "reached": plan.trainable_parameters}
    return dataclasses.replace(plan, notes=plan.notes | {"budget": budget}), start


def _candidates(strategy: TargetConfig, modules: ModuleMap) -> tuple[list[Projection], dict[str, str], dict[str, Any]]:
    """Every linear module with a role on the chosen layers, what is left out, and what else a record should say.

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
    coverage = cover(every, modules)
    found = [one for one, _ in coverage.chosen]
    linear = [one for one in found if one.experts == 1 and one.parameter == "weight"]
    if not linear:
        raise _nothing(strategy, f"{modules.name} has no linear module with a role on the chosen layers.")
    experts = _left_out((one for one in found if one not in linear), "experts that are one parameter")
    return linear, experts, dict(coverage.notes)


def _left_out(projections: Iterable[Projection], why: str) -> dict[str, str]:
    """What is no candidate, by role, for the record."""
    counts = Counter(one.role for one in projections)
    return {role: f"{why} ({count})" for role, count in counts.items()}


def _together(*reasons: Mapping[str, str]) -> dict[str, str]:
    """The reasons for each role, one after another."""
    roles = dict.fromkeys(role for those in reasons for role in those)
    return {role: ", ".join(those[role] for those in reasons if role in those) for role in roles}


def _nothing(strategy: TargetConfig, why: str) -> PlanError:
    remedy = "Choose other layers, or name roles: target=qv_ffn"
    return PlanError(f"target.auto.method={strategy.auto.method}", why, remedy)


def _too_small(strategy: TargetConfig, asked: int, why: str, or_else: str) -> PlanError:
    place = f"target.budget={strategy.budget}"
    return PlanError(place, f"{asked:,} parameters are too few: {why}.", f"Raise the budget, or {or_else}.")


def _by_feature_norms(
    strategy: TargetConfig,
    modules: ModuleMap,
    candidates: Sequence[Projection],
    base: Any,
    batches: Sequence[Batch],
    asked: int,
) -> tuple[list[Chosen], dict[str, Any]]:
    """The module types with the lowest scores, all at one rank."""
    scores = feature_norms(base, candidates, batches)
    by_type: dict[str, list[float]] = {}
    for one, score in scores.items():
        by_type.setdefault(one.role, []).append(score)
    means = {role: fmean(those) for role, those in by_type.items()}
    if not means:
        raise _nothing(strategy, UNREAD)
    if infinite := [role for role, mean in means.items() if not math.isfinite(mean)]:
        raise PlanError(
            "target.auto.method=plop",
            f"the feature norms of {', '.join(infinite)} are not finite in {base.dtype}.",
            "Take model.dtype=bfloat16 or float32, or name roles: target=qv_ffn",
        )
    types = sorted(means, key=lambda role: means[role])[: strategy.auto.types]
    chosen = _at_one_rank(
        strategy, modules, [one for one in scores if one.role in types], asked, "lower target.auto.types"
    )
    return chosen, {
        "prompts": sum(len(batch["input_ids"]) for batch in batches),
        "tokens": sum(int(real_tokens(batch).sum()) for batch in batches),
        "scores": means,
        "chosen": types,
        "left_out": _left_out((one for one in candidates if one not in scores), "modules that do not read every token"),
    }


def _by_condition(
    strategy: TargetConfig, modules: ModuleMap, candidates: Sequence[Projection], base: Any, asked: int
) -> tuple[list[Chosen], dict[str, Any]]:
    """The share of the modules with the lowest condition numbers, all at one rank."""
    numbers = {one: condition_number(base.get_submodule(one.module)) for one in candidates}
    known = {one: number for one, number in numbers.items() if number is not None}
    count = max(1, int(len(known) * strategy.auto.share))  # as PEFT's selector takes its share
    lowest = sorted(known, key=lambda one: known[one])[:count]
    chosen = _at_one_rank(strategy, modules, [one for one in known if one in lowest], asked, "lower target.auto.share")
    return chosen, {
        "scores": {one.module: number for one, number in known.items()},
        "chosen": [one.module for one in lowest],
        "left_out": _left_out((one for one in candidates if one not in known), "modules too large for the selector"),
    }


def _at_one_rank(
    strategy: TargetConfig, modules: ModuleMap, projections: Sequence[Projection], asked: int, fewer: str
) -> list[Chosen]:
    """The projections at the rank that comes nearest to the budget.

    Raises:
        PlanError: when rank 1 costs more.
    """
    step = sum(one.parameters(1) for one in projections)
    # DoRA's magnitudes and the biases do not grow with the rank
    fixed = sum(one.d_out or 0 for one in projections) if strategy.dora else 0
    fixed += sum(term.parameters for term in trained_biases(strategy.bias, projections, modules))
    if not projections or asked < step + fixed:
        why = f"rank 1 costs {step + fixed:,} on the {len(projections)} projections that were chosen"
        raise _too_small(strategy, asked, why, fewer)
    return [(one, round((asked - fixed) / step)) for one in projections]


def _by_variance(
    strategy: TargetConfig,
    modules: ModuleMap,
    candidates: Sequence[Projection],
    base: Any,
    batches: Sequence[Batch],
    asked: int,
) -> tuple[list[Chosen], dict[str, Any], eva.Start]:
    """Ranks by the variance of its inputs that a component explains.

    PEFT hands out as many components as whole mean ranks give, somewhat more than the budget; those that explain least
    are then given up, which is what PEFT would have done with fewer to hand out.
    """
    paths = eva.readable(base, [one.module for one in candidates], batches[0])
    places = {one.module: one for one in candidates if one.module in paths}
    if not places:
        raise _nothing(strategy, UNREAD)
    biases = sum(term.parameters for term in trained_biases(strategy.bias, places.values(), modules))
    if asked <= biases:
        raise _too_small(strategy, asked, f"the biases take {biases:,}", "take target.bias=none")
    asked -= biases  # a module that gets no component will not train its own after all
    found, prompts = _enough_components(places, base, batches, asked)
    costs = {path: one.parameters(1) for path, one in places.items()}
    ranks = eva.ranks_within(eva.explained(base, found, prompts), costs, asked)
    if not any(ranks.values()):
        cheapest = min(costs.values())
        raise _too_small(strategy, asked, f"the cheapest component costs {cheapest:,}", "take fewer layers")
    by_type: dict[str, list[int]] = {}
    for path, one in places.items():
        by_type.setdefault(one.role, []).append(ranks[path])
    counts = Counter(ranks.values())
    notes = {
        "prompts": sum(len(batch["input_ids"]) for batch in prompts.batches),
        "tokens": prompts.tokens,
        "positions": "answers" if prompts.answers else "all",
        "scores": {role: fmean(those) for role, those in by_type.items()},  # mean ranks
        "chosen": {str(rank): counts[rank] for rank in sorted(counts)},  # rank -> modules
        "left_out": _left_out(
            (one for one in candidates if one.module not in places), "modules that do not read every token"
        ),
    }
    start = eva.Start({path: found[path][:rank].clone() for path, rank in ranks.items() if rank})
    return [(one, ranks[path]) for path, one in places.items() if ranks[path]], notes, start


def _enough_components(
    places: Mapping[str, Projection], base: Any, batches: Sequence[Batch], asked: int
) -> tuple[dict[str, torch.Tensor], eva.Prompts]:
    """Components that cost at least the budget, up to RHO times the mean rank in a module."""
    mean = asked / sum(one.parameters(1) for one in places.values())
    narrowest = min(places.values(), key=lambda one: one.d_in)
    rank = math.floor(mean) + 1
    while True:
        most = max(rank, round(RHO * mean))
        if most > narrowest.d_in:
            raise PlanError(
                "target.budget",
                f"{asked:,} parameters are up to rank {most} a module, and {narrowest.module} reads {narrowest.d_in} "
                "numbers: it has no more components.",
                "Lower the budget.",
            )
        prompts = eva.prompts_for(batches, most)
        found = eva.components(base, list(places), rank, prompts, most=most)
        cost = sum(one.parameters(len(found[path])) for path, one in places.items())
        if cost >= asked:
            return found, prompts
        rank = max(rank + 1, math.ceil(rank * asked / cost))
