"""Assign layers and roles to a model's matrices: by name, by mapping, or by the block's structure.

By structure, attention is three projections whose names carry a mark of q, k and v, whose inputs agree, and one that
leads back; the FFN what widens the block's width and what narrows to it again. What is not clear has no role.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorascope.config.schema import ROLES
from lorascope.errors import ModelError
from lorascope.targets.roles import (
    OF_TYPE,
    BlockPlace,
    Roles,
    is_adaptable_mixer,
    is_called,
    is_elsewhere,
    place_of,
    roles_of,
)
from lorascope.targets.weights import (
    Projection,
    Spans,
    Weight,
    attention_spans,
    head_counts,
    number,
    of_layer,
    repeated,
    spans_of,
)

Weights = Mapping[str, Weight]  # by path inside the block
Reading = tuple[BlockPlace, Weight, Roles, str]  # a weight with its place, its roles, and how they were found

MARKS = {
    "q": {"q", "query", "queries", "wq"},
    "k": {"k", "key", "keys", "wk"},
    "v": {"v", "value", "values", "wv"},
    "gate": {"gate", "g"},
}
OUTPUTS = {"o", "out", "output", "dense", "wo"}
ATTENTION = re.compile(r"att|mixer", re.IGNORECASE)


def _infer(block: Weights, known: Mapping[str, Roles], hidden: int | None) -> dict[str, Roles]:
    """Roles of the weights of one block that have none yet; `hidden` is the block's width."""
    found: dict[str, Roles] = {}
    have = {role for roles in known.values() for role in roles}
    free = {inside: weight for inside, weight in block.items() if inside not in known and weight.experts == 1}
    if not have & {"q", "k", "v"}:
        # a table may know the way back (BERT's attention.output.dense) without knowing the way in
        back = {inside: block[inside] for inside, roles in known.items() if roles == ("o",)}
        found |= {inside: roles for inside, roles in _attention(free | back).items() if inside not in known}
    if not have & {"up", "down"}:
        width = next((free[inside].d_in for inside, roles in found.items() if roles == ("q",)), hidden)
        found |= _ffn({inside: weight for inside, weight in free.items() if inside not in found}, width)
    return found


def _attention(free: Weights) -> dict[str, Roles]:
    marked = {role: [inside for inside in free if _words(_leaf(inside)) & MARKS[role]] for role in "qkv"}
    if any(len(found) != 1 for found in marked.values()):
        return {}
    q, k, v = (found[0] for found in marked.values())
    if q == k != v:  # Reformer's query_key is both
        return {q: ("q", "k"), v: ("v",)}
    into, home = free[q], q.rpartition(".")[0]
    if len({q, k, v}) < 3 or {free[k].d_in, free[v].d_in} != {into.d_in} or free[k].d_out > into.d_out:
        return {}
    outputs = [
        inside
        for inside, weight in free.items()
        if _words(_leaf(inside)) & OUTPUTS
        and (ATTENTION.search(inside) or inside.rpartition(".")[0] == home)
        and weight.d_out == into.d_in
        and weight.d_in in (into.d_out, free[v].d_out)
    ]
    if len(outputs) != 1:
        return {}
    return {q: ("q",), k: ("k",), v: ("v",), outputs[0]: ("o",)}


def _ffn(free: Weights, width: int | None) -> dict[str, Roles]:
    outside = {inside: weight for inside, weight in free.items() if not ATTENTION.search(inside)}
    down = [inside for inside, weight in outside.items() if weight.d_out == width and weight.d_in != width]
    if len(down) != 1:
        return {}
    shape = width, outside[down[0]].d_in
    wider = [inside for inside, weight in outside.items() if (weight.d_in, weight.d_out) == shape]
    gates = [inside for inside in wider if _words(_leaf(inside)) & MARKS["gate"]]
    up = [inside for inside in wider if inside not in gates]
    if len(up) != 1 or len(gates) > 1:
        return {}
    roles: dict[str, Roles] = dict.fromkeys(gates, ("gate",))
    return roles | {up[0]: ("up",), down[0]: ("down",)}


def _words(name: str) -> set[str]:
    """The words of a name: `attn_query2` has attn and query, `outProj` has out and proj."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def _leaf(inside: str) -> str:
    """The last part of a path that is a name."""
    return next((part for part in reversed(inside.split(".")) if not part.isdigit() and part != "linear"), inside)


BY_HEAD = "@head"  # behind a mapping's fused roles: their rows repeat for every head


@dataclass(frozen=True)
class BlockReading:
    """What was read of a model's blocks."""

    layers: int
    projections: tuple[Projection, ...]  # by layer, role and order in the model
    offsets: Mapping[str, int]  # of each list of blocks, its first layer's number

    def layer_of(self, name: str) -> int:
        """The layer that a weight stands in, -1 outside the blocks."""
        place = place_of(name)
        return self.offsets[place.stem] + place.number if place and place.stem in self.offsets else -1


def read_blocks(weights: list[Weight], model: Any, mapping: Mapping[str, str]) -> BlockReading:
    """Layers and roles of a model's weights.

    Raises:
        ModelError: when the mapping names a role that is none, or a module that is not there.
    """
    config = model.config.get_text_config()
    blocks: dict[tuple[str, int], dict[str, Weight]] = {}
    mixers: list[Reading] = []
    places = [(place, weight) for weight in weights if (place := place_of(weight.name))]
    for place, weight in places:
        if mapping or not is_elsewhere(weight, place):
            blocks.setdefault((place.stem, place.number), {})[place.inside] = weight
        if not mapping and weight.experts == 1 and is_adaptable_mixer(weight, place):
            mixers.append((place, weight, ("mixer",), "name"))
    read = _roles_in(blocks, config, mapping)
    stems: dict[str, set[str]] = {}
    for place, _, roles, _ in read:
        stems.setdefault(place.stem, set()).update(roles)
    for place, *_ in mixers:  # where they stand beside attention's blocks, these number the layers
        stems.setdefault(place.stem, {"mixer"})
    if not stems:  # nothing has a role: the longest list of blocks, for who names modules
        stems = {stem: set() for stem, _ in Counter(place.stem for place, _ in places).most_common(1)}
    offsets, layers = _number_layers(stems, model)
    return BlockReading(layers, _projections([*read, *mixers], offsets, config, mapping), offsets)


def _projections(
    read: list[Reading], offsets: Mapping[str, int], config: Any, mapping: Mapping[str, str]
) -> tuple[Projection, ...]:
    """A projection for each role of each weight."""
    found: list[Projection] = []
    ordinals: Counter[tuple[int, str]] = Counter()
    for place, weight, roles, source in read:
        layer = offsets[place.stem] + place.number
        parts = _parts(weight, roles, of_layer(config, place.number), str(config.model_type), mapping)
        for role in roles:
            own: dict[str, Any] = {"ordinal": ordinals[layer, role], "source": source}
            if len(roles) > 1:
                rows = parts[role] if parts else None
                own |= {"fused_with": roles, "rows": rows}
                own["d_out"] = sum(stop - start for start, stop in rows) if rows else None
            found.append(weight.projection(layer, role, **own))
            ordinals[layer, role] += 1
    return tuple(sorted(found, key=lambda one: (one.layer, ROLES.index(one.role), one.ordinal)))


def _roles_in(blocks: Mapping[tuple[str, int], Weights], config: Any, mapping: Mapping[str, str]) -> list[Reading]:
    """Each weight that has roles, with these and how they were found."""
    mapped, model_type = _by_mapping(blocks, mapping), str(config.model_type)
    own, hidden = OF_TYPE.get(model_type, {}), number(config, "hidden_size")
    read = []
    for (stem, index), block in blocks.items():
        if mapping:
            found = {inside: (mapped[inside], "mapping") for inside in block if inside in mapped}
        else:
            free = {inside: weight for inside, weight in block.items() if own.get(inside, True)}
            named = {inside: roles_of(BlockPlace(stem, index, inside), model_type) for inside in free}
            known = _implied({inside: roles for inside, roles in named.items() if roles}, block, model_type)
            found = {inside: (roles, "name") for inside, roles in known.items()}
            found |= {inside: (roles, "structure") for inside, roles in _infer(free, known, hidden).items()}
        read += [
            (BlockPlace(stem, index, inside), block[inside], roles, source) for inside, (roles, source) in found.items()
        ]
    return read


def _parts(
    weight: Weight, roles: Roles, config: Any, model_type: str, mapping: Mapping[str, str]
) -> dict[str, Spans] | None:
    """Rows of each role of a fused weight."""
    if len(roles) == 1:
        return None
    equal = repeated(roles, (weight.d_out // len(roles),) * len(roles), 1)
    if weight.experts > 1 and roles == ("gate", "up") and weight.parameter == "gate_up_proj":
        return repeated(roles, (1, 1), weight.d_out // 2) if weight.interleaved else equal
    if not mapping:
        return spans_of(roles, weight.d_out, config, model_type)
    if not {"q", "k", "v"} & set(roles):
        return equal
    heads, kv_heads = head_counts(config)
    return attention_spans(
        roles, weight.d_out, heads, kv_heads, kv_heads if "+".join(roles) + BY_HEAD in mapping else 1
    )


def _implied(known: Mapping[str, Roles], block: Weights, model_type: str) -> dict[str, Roles]:
    """What tables said, with the roles that a module plays besides because none beside it does."""
    have = {role for roles in known.values() for role in roles}
    inner = {block[inside].d_in for inside, roles in known.items() if roles == ("down",)}
    result = dict(known)
    for inside, roles in known.items():
        # an `up` that is twice as wide as what `down` takes holds the gate as well (moshi's fc1)
        if roles == ("up",) and "gate" not in have and inner == {block[inside].d_out // 2}:
            result[inside] = ("gate", "up")
        # a key projection without one for values gives both (gemma4's attention_k_eq_v)
        if roles == ("k",) and "q" in have and "v" not in have and model_type not in OF_TYPE:
            result[inside] = ("k", "v")
    return result


def _by_mapping(blocks: Mapping[tuple[str, int], Weights], mapping: Mapping[str, str]) -> dict[str, Roles]:
    """Roles by path inside the block, as the model's YAML tells them."""
    result: dict[str, Roles] = {}
    paths = list(dict.fromkeys(inside for block in blocks.values() for inside in block))
    for key, module in mapping.items():
        roles = tuple(key.removesuffix(BY_HEAD).split("+"))
        if strangers := [role for role in roles if role not in ROLES]:
            raise ModelError(
                f"model.roles.{key}", f"'{strangers[0]}' is not a role.", f"Take of {', '.join(ROLES)}; q+k+v is fused."
            )
        matches = [path for path in paths if is_called(path, module)]
        if not matches:
            raise ModelError(
                f"model.roles.{key}",
                f"no linear module in a block is called '{module}'.",
                f"A block has: {', '.join(paths[:12])}.",
            )
        result |= dict.fromkeys(matches, roles)
    return result


def _number_layers(stems: Mapping[str, set[str]], model: Any) -> tuple[dict[str, int], int]:
    """The first layer of each list of blocks, and how many layers there are in all.

    A list whose roles another one lacks belongs to the same layers (XLM keeps attentions and FFNs in two lists); one
    with the same roles follows (hierarchies of blocks).
    """
    sizes = {stem: len(model.get_submodule(stem)) for stem in stems}
    offsets: dict[str, int] = {}
    seen: set[str] = set()
    start = end = 0
    for stem, its in stems.items():
        if seen & its:
            start, seen = end, set()
        offsets[stem] = start
        seen |= its
        end = max(end, start + sizes[stem])
    return offsets, end
