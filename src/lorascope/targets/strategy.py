"""What a strategy takes of a model: its ranks, layers and names come in, projections with a rank come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lorascope.config import GROUPS, Fused, Missing, TargetConfig
from lorascope.errors import PlanError
from lorascope.targets.layers import chosen_layers
from lorascope.targets.module_map import ModuleMap, Projection, whole_of
from lorascope.targets.peft_default import default_modules
from lorascope.wording import spans

Chosen = tuple[Projection, int]


@dataclass(frozen=True)
class Coverage:
    """Projections with their ranks, and what a record should say of how they came about."""

    chosen: tuple[Chosen, ...]
    notes: dict[str, Any]


def cover(strategy: TargetConfig, modules: ModuleMap) -> Coverage:
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
    return Coverage(tuple(chosen), notes)


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
        with_role = [one for one in modules.projections if one.module == name or one.module.endswith(f".{name}")]
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
