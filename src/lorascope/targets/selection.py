"""Select the modules of a model that a strategy adapts, each with its rank."""

from __future__ import annotations

import re
from typing import Any

from lorascope.config.schema import GROUPS, Fused, Missing, TargetConfig
from lorascope.errors import PlanError
from lorascope.formats import spans
from lorascope.targets.module_map import ModuleMap
from lorascope.targets.roles import is_called
from lorascope.targets.weights import Projection

EVERY = re.compile(r"every_(\d{1,9})(?:_from_(\d{1,9}))?")
RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
FORMS = "all, first_half, last_half, every_2, every_2_from_1, 16-31, or a list [0, 8, 31]"


def chosen_layers(wanted: Any, layers: int) -> tuple[int, ...]:
    """The layers that a strategy takes of a model that has so many, in order.

    Args:
        wanted: `all`; `first_half` and `last_half` (the middle layer of an odd number belongs to the last); `every_n`,
            from layer 0 or `every_n_from_k`; `a-b`, both ends included, or one number; a list of numbers and ranges.

    Raises:
        PlanError: for another word, or layers out of range.
    """
    items = wanted if isinstance(wanted, list | tuple) else [wanted]
    if not items:
        raise PlanError("target.layers", "no layer is named.", f"Take {FORMS}.")
    spans = [_numbers(str(item).strip(), layers) for item in items]
    # the spans are looked at before they become numbers: 0-99999999999 would not fit into memory
    if outside := sorted(max(span.start, layers) for span in spans if span and span[-1] >= layers):
        raise PlanError(
            "target.layers", f"{outside[0]} is out of range: the model has {layers}.", f"Take 0 to {layers - 1}."
        )
    return tuple(sorted({number for span in spans for number in span}))


def _numbers(word: str, layers: int) -> range:
    named = {"all": range(layers), "first_half": range(layers // 2), "last_half": range(layers // 2, layers)}
    if word in named:
        return named[word]
    if (every := EVERY.fullmatch(word)) and int(every[1]) > 0:
        start = int(every[2] or 0)
        return range(start, max(layers, start + 1), int(every[1]))  # a start out of range is refused as such
    if (span := RANGE.fullmatch(word)) and int(span[1]) <= int(span[2] or span[1]):
        return range(int(span[1]), int(span[2] or span[1]) + 1)
    shown = word if len(word) <= 60 else f"{word[:60]}…"
    raise PlanError("target.layers", f"'{shown}' names no layers.", f"Take {FORMS}.")


def _peft_default(modules: ModuleMap) -> list[Projection]:
    """PEFT's choice on a module map; a fused module counts once, with its roles joined by '+'."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    names = sorted(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(modules.model_type, ()))
    whole = {
        one.module: one.whole()
        for one in modules.projections
        if one.parameter == "weight" and any(is_called(one.module, name) for name in names)
    }
    if not whole:
        what = f"PEFT has no default for the model type '{modules.model_type}'."
        if names:
            what = f"PEFT's default for '{modules.model_type}' is {', '.join(names)}, and no projection is called so."
        raise PlanError("target=peft_default", what, "Name roles: target=qv_ffn, or ranks of your own.")
    return list(whole.values())


Chosen = tuple[Projection, int]


def cover(strategy: TargetConfig, modules: ModuleMap) -> tuple[list[Chosen], dict[str, Any]]:
    """The projections that a strategy adapts on a model with their ranks, and what a record should say of the choice.

    Raises:
        PlanError: for a role, layer or name that the model lacks, or a fused module that cannot be had by parts.
    """
    notes: dict[str, Any] = {}
    layers = set(chosen_layers(strategy.layers, modules.layers))
    if len(layers) < modules.layers:
        notes["layers"] = sorted(layers)
    if strategy.peft_default is not None:
        chosen = [(one, strategy.peft_default) for one in _peft_default(modules) if one.layer in layers]
    else:
        ranks = ranks_by_role(strategy, modules)
        if missing := _missing(strategy, ranks, modules, layers):
            notes["missing"] = missing
        chosen = [(one, ranks[one.role]) for one in modules.projections if one.role in ranks and one.layer in layers]
        if strategy.fused is Fused.parts:
            _check_parts(chosen, modules)
        elif any(one.fused_with for one, _ in chosen):
            notes["fused"] = "native"
            chosen = _whole(chosen)
    chosen += _by_name(strategy.modules, modules, {one.module for one, _ in chosen}, layers)
    return chosen, notes


def ranks_by_role(strategy: TargetConfig, modules: ModuleMap) -> dict[str, int]:
    """A rank for each role of the model; a role's own entry wins over its group's, a group's over `all`.

    Raises:
        PlanError: for a role or group that the model lacks.
    """
    given = strategy.ranks.given()
    ranks: dict[str, int] = {}
    for name in sorted(given, key=lambda name: -len(GROUPS.get(name, (name,)))):
        members = [role for role in GROUPS.get(name, (name,)) if role in modules.roles]
        if not members:
            raise _absent(name, modules)
        ranks |= dict.fromkeys(members, given[name])
    return ranks


def _missing(
    strategy: TargetConfig, ranks: dict[str, int], modules: ModuleMap, layers: set[int]
) -> dict[str, list[int]]:
    """Layers without a role that the strategy wants there, by role; an error unless they are allowed."""
    found: dict[str, list[int]] = {}
    for role in ranks:
        holes = [layer for layer in modules.missing(role) if layer in layers]
        if holes and strategy.missing is Missing.error:
            raise PlanError(
                "target.ranks",
                f"role '{role}' is missing on layers {spans(holes)} of {modules.name}, which has {modules.layers}.",
                "An arm would not be what its name says. Choose target.layers or roles that every layer has, or accept "
                "it: target.missing=allow   (the record says so).",
            )
        if len(holes) == len(layers):
            raise PlanError(
                "target.layers", f"none of the chosen layers has a '{role}'.", "Choose others, or leave the role out."
            )
        if holes:
            found[role] = holes
    return found


def _whole(chosen: list[Chosen]) -> list[Chosen]:
    """Fused modules as PEFT takes them: whole, under their roles joined by '+'."""
    result: dict[str, Chosen] = {}
    for one, rank in chosen:
        _, before = result.setdefault(one.name, (one.whole(), rank))
        if rank != before:
            raise PlanError(
                "target.fused=native",
                f"{one.module} would need rank {before} and {rank} for its parts {' '.join(one.fused_with)}.",
                "Give its parts one rank, or adapt them one by one: target.fused=parts",
            )
    return list(result.values())


def _check_parts(chosen: list[Chosen], modules: ModuleMap) -> None:
    if one := next((one for one, _ in chosen if one.d_out is None), None):
        raise PlanError(
            "target.ranks",
            f"role '{one.role}' of {modules.name} is a part of the fused module {one.module} "
            f"({', '.join(one.fused_with)}), whose layout is not known for '{modules.model_type}'.",
            "Adapt it whole: target.fused=native   or tell the layout in the model's YAML: roles: {q+k+v: …}",
        )


def _by_name(names: dict[str, int], modules: ModuleMap, taken: set[str], layers: set[int]) -> list[Chosen]:
    """What `target.modules` names: lm_head, embeddings, or anything else without a role."""
    found: list[Chosen] = []
    for name, rank in names.items():
        # the parts of a mixer may be named
        if one := next(
            (one for one in modules.projections if one.role != "mixer" and is_called(one.module, name)), None
        ):
            raise PlanError(
                f"target.modules.{name}",
                f"these modules play the role '{one.role}'.",
                f"Give the role a rank: target.ranks.{one.role}={rank}",
            )
        matches = [
            one
            for one in modules.named
            if is_called(one.module if one.parameter == "weight" else one.name, name)
            and (one.layer in layers or one.layer < 0)
        ]
        if not matches:
            there = ", ".join(dict.fromkeys(one.role for one in modules.named)) or "none"
            raise PlanError(
                f"target.modules.{name}", f"no module of {modules.name} is called so.", f"Without a role are: {there}."
            )
        found += [(one, rank) for one in matches if one.module not in taken]
    return found


def _absent(name: str, modules: ModuleMap) -> PlanError:
    if set(modules.roles) == {"mixer"}:
        what = f"role '{name}' is absent in {modules.name}, which has recurrent mixers alone."
        return PlanError("target.ranks", what, "Place them: target=mixer   or ranks: {mixer: 8}")
    if not modules.roles:
        leaves = ", ".join(dict.fromkeys(one.role for one in modules.named))
        return PlanError(
            "target.ranks",
            f"role '{name}' is absent in {modules.name}: none of its modules ({leaves}) is attention's or an FFN's.",
            "Name modules: target.modules={in_proj: 8}   or tell their roles in the model's YAML: roles: {q: …}",
        )
    there = ", ".join(f"{role} (fused)" if modules.of_role(role)[0].fused_with else role for role in modules.roles)
    remedy = f"Take of these, or a group: {', '.join(GROUPS)}."
    if name in GROUPS["ffn"] and any(role in modules.roles for role in GROUPS["ffn"]):
        remedy = "Use 'ffn' for whatever the FFN has:   ranks: {ffn: 4}"
    return PlanError("target.ranks", f"role '{name}' is absent in {modules.name}; it has {there}.", remedy)
