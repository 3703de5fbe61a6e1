"""Select the modules of a model that a strategy adapts, each with its rank."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from lorascope.config.schema import GROUPS, Fused, Missing, TargetConfig
from lorascope.errors import PlanError
from lorascope.formats import spans
from lorascope.targets.module_map import ModuleMap, Projection, whole_of

EVERY = re.compile(r"every_(\d{1,9})(?:_from_(\d{1,9}))?")
RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
LONGEST_TOLD = 60  # characters of what was written, in an error
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
    if word == "all":
        return range(layers)
    if word == "first_half":
        return range(layers // 2)
    if word == "last_half":
        return range(layers // 2, layers)
    if (every := EVERY.fullmatch(word)) and int(every[1]) > 0:
        start = int(every[2] or 0)
        if start >= layers:
            return range(start, start + 1)  # out of range, and told so
        return range(start, layers, int(every[1]))
    if (span := RANGE.fullmatch(word)) and int(span[1]) <= int(span[2] or span[1]):
        return range(int(span[1]), int(span[2] or span[1]) + 1)
    told = word if len(word) <= LONGEST_TOLD else f"{word[:LONGEST_TOLD]}…"
    raise PlanError("target.layers", f"'{told}' names no layers.", f"Take {FORMS}.")


def default_names(model_type: str) -> tuple[str, ...]:
    """The module names that PEFT adapts by default; none where it has no default for the type."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    return tuple(sorted(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type, ())))


def default_modules(modules: ModuleMap) -> list[Projection]:
    """PEFT's choice on a module map; a fused module counts once, with its roles joined by '+'.

    Raises:
        PlanError: when PEFT has no default for the type, or its names are not among the projections.
    """
    names = default_names(modules.model_type)
    if not names:
        raise PlanError(
            "target=peft_default",
            f"PEFT has no default for the model type '{modules.model_type}'.",
            "Name roles: target=qv_ffn, or ranks of your own.",
        )
    whole: dict[str, Projection] = {}
    for projection in modules.projections:
        # as PEFT matches names: the whole path or what stands behind its last dots
        if projection.parameter == "weight" and any(
            projection.module == name or projection.module.endswith(f".{name}") for name in names
        ):
            whole[projection.module] = whole_of(projection) if projection.fused_with else projection
    if not whole:
        raise PlanError(
            "target=peft_default",
            f"PEFT's default for '{modules.model_type}' is {', '.join(names)}, and no projection is called so.",
            "Name roles: target=qv_ffn, or ranks of your own.",
        )
    return list(whole.values())


Chosen = tuple[Projection, int]


@dataclass(frozen=True)
class Selection:
    """Projections with their ranks, and what a record should say of how they came about."""

    chosen: tuple[Chosen, ...]
    notes: dict[str, Any]


def cover(strategy: TargetConfig, modules: ModuleMap) -> Selection:
    """The projections that a strategy adapts on a model.

    Raises:
        PlanError: for a role, layer or name that the model lacks, or a fused module that cannot be had by parts.
    """
    notes: dict[str, Any] = {}
    layers = set(chosen_layers(strategy.layers, modules.layers))
    if len(layers) < modules.layers:
        notes["layers"] = sorted(layers)
    if strategy.peft_default is not None:
        chosen: list[Chosen] = [(projection, strategy.peft_default) for projection in default_modules(modules)]
    else:
        ranks = ranks_by_role(strategy, modules)
        if missing := _missing(strategy, ranks, modules, layers):
            notes["missing"] = missing
        chosen = [(one, ranks[one.role]) for one in modules.projections if one.role in ranks]
        chosen = [(one, rank) for one, rank in chosen if one.layer in layers]
        if strategy.fused is Fused.native:
            chosen, whole = _whole(chosen)
            if whole:
                notes["fused"] = "native"
        else:
            _check_parts(chosen, modules)
    chosen = [(one, rank) for one, rank in chosen if one.layer in layers]
    chosen += _by_name(strategy.modules, modules, {one.module for one, _ in chosen}, layers)
    return Selection(tuple(chosen), notes)


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


def _whole(chosen: list[Chosen]) -> tuple[list[Chosen], bool]:
    """Fused modules as PEFT takes them: whole, under their roles joined by '+'."""
    result: dict[tuple[str, str], Chosen] = {}
    whole = False
    for one, rank in chosen:
        key = (one.module, one.parameter)
        if not one.fused_with:
            result[key] = (one, rank)
            continue
        whole = True
        if key in result and result[key][1] != rank:
            raise PlanError(
                "target.fused=native",
                f"{one.module} would need rank {result[key][1]} and {rank} for its parts {' '.join(one.fused_with)}.",
                "Give its parts one rank, or adapt them one by one: target.fused=parts",
            )
        result[key] = (whole_of(one), rank)
    return list(result.values()), whole


def _check_parts(chosen: list[Chosen], modules: ModuleMap) -> None:
    for one, _ in chosen:
        if one.d_out is None:
            raise PlanError(
                "target.ranks",
                f"role '{one.role}' of {modules.name} is a part of the fused module {one.module} "
                f"({', '.join(one.fused_with)}), whose layout is not known for '{modules.model_type}'.",
                "Adapt it whole: target.fused=native   or tell the layout in the model's YAML: roles: {q+k+v: …}",
            )


def _by_name(
    names: dict[str, int], modules: ModuleMap, taken: set[str], layers: set[int]
) -> list[tuple[Projection, int]]:
    """What `target.modules` names: lm_head, embeddings, or anything else without a role."""
    found: list[tuple[Projection, int]] = []
    for name, rank in names.items():
        matches = [one for one in modules.named if _called(one, name)]
        roles = [one for one in modules.projections if one.role != "mixer"]  # whose parts may be named
        with_role = [one for one in roles if one.module == name or one.module.endswith(f".{name}")]
        if with_role:
            raise PlanError(
                f"target.modules.{name}",
                f"these modules play the role '{with_role[0].role}'.",
                f"Give the role a rank: target.ranks.{with_role[0].role}={rank}",
            )
        matches = [one for one in matches if one.layer in layers or one.layer < 0]
        if not matches:
            there = ", ".join(dict.fromkeys(one.role for one in modules.named)) or "none"
            raise PlanError(
                f"target.modules.{name}", f"no module of {modules.name} is called so.", f"Without a role are: {there}."
            )
        found += [(one, rank) for one in matches if one.module not in taken]
    return found


def _called(one: Projection, name: str) -> bool:
    path = one.module if one.parameter in ("weight", "embedding") else f"{one.module}.{one.parameter}"
    return path == name or path.endswith(f".{name}")


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
