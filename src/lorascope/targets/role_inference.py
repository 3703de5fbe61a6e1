"""Assign layers and roles to a model's matrices: by name, by mapping, or by the block's structure.

Attention is found by three projections whose names carry a mark of q, k and v, whose inputs agree, and one that leads
back; the FFN by what widens the block's width and what narrows to it again. What is not clear is left without a role.

Tables of names speak first, a mapping in the model's YAML before them; where neither does, structure is asked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lorascope.config.schema import ROLES
from lorascope.errors import ModelError
from lorascope.targets.roles import OF_TYPE, BlockPlace, Roles, is_adaptable_mixer, is_elsewhere, place_of, roles_of
from lorascope.targets.weights import Spans, Weight, alternating, number, of_layer, repeated, spans_of

Weights = Mapping[str, Weight]  # by path inside the block

MARKS = {
    "q": {"q", "query", "queries", "wq"},
    "k": {"k", "key", "keys", "wk"},
    "v": {"v", "value", "values", "wv"},
    "gate": {"gate", "g"},
}
OUTPUTS = {"o", "out", "output", "dense", "wo"}
ATTENTION = re.compile(r"att|mixer", re.IGNORECASE)


def infer(block: Weights, known: Mapping[str, Sequence[str]], hidden: int | None) -> dict[str, tuple[str, ...]]:
    """Roles of the weights of one block that have none yet.

    Args:
        block: every weight of the block that is not elsewhere, by its path inside.
        known: what tables said, by path inside.
        hidden: the block's width.
    """
    found: dict[str, tuple[str, ...]] = {}
    have = {role for roles in known.values() for role in roles}
    free = {inside: weight for inside, weight in block.items() if inside not in known and weight.experts == 1}
    if not have & {"q", "k", "v"}:
        # a table may know the way back (BERT's attention.output.dense) without knowing the way in
        back = {inside: block[inside] for inside, roles in known.items() if tuple(roles) == ("o",)}
        found |= {inside: roles for inside, roles in _attention(free | back).items() if inside not in known}
    if not have & {"up", "down"}:
        width = next((free[inside].d_in for inside, roles in found.items() if roles == ("q",)), hidden)
        found |= _ffn({inside: weight for inside, weight in free.items() if inside not in found}, width)
    return found


def _attention(free: Weights) -> dict[str, tuple[str, ...]]:
    marked: dict[str, list[str]] = {role: [] for role in "qkv"}
    for inside in free:
        for role in "qkv":
            if words(_leaf(inside)) & MARKS[role]:
                marked[role].append(inside)
    if any(len(found) != 1 for found in marked.values()):
        return {}
    if marked["q"] == marked["k"] and marked["v"] != marked["k"]:  # Reformer's query_key is both
        return {marked["q"][0]: ("q", "k"), marked["v"][0]: ("v",)}
    if len({found[0] for found in marked.values()}) < len(marked):
        return {}
    q, k, v = (free[marked[role][0]] for role in "qkv")
    home = marked["q"][0].rpartition(".")[0]
    if not (q.d_in == k.d_in == v.d_in) or k.d_out > q.d_out:
        return {}
    outputs = [
        inside
        for inside, weight in free.items()
        if words(_leaf(inside)) & OUTPUTS
        and (ATTENTION.search(inside) or inside.rpartition(".")[0] == home)
        and weight.d_out == q.d_in
        and weight.d_in in (q.d_out, v.d_out)
    ]
    if len(outputs) != 1:
        return {}
    found: dict[str, tuple[str, ...]] = {marked[role][0]: (role,) for role in "qkv"}
    return found | {outputs[0]: ("o",)}


def _ffn(free: Weights, width: int | None) -> dict[str, tuple[str, ...]]:
    outside = {inside: weight for inside, weight in free.items() if not ATTENTION.search(inside)}
    down = [inside for inside, weight in outside.items() if weight.d_out == width and weight.d_in != width]
    if len(down) != 1:
        return {}
    inner = outside[down[0]].d_in
    up = [inside for inside, weight in outside.items() if (weight.d_in, weight.d_out) == (width, inner)]
    gates = [inside for inside in up if words(_leaf(inside)) & MARKS["gate"]]
    if len(up) == 1 and not gates:
        return {up[0]: ("up",), down[0]: ("down",)}
    if len(up) == 2 and len(gates) == 1:
        rest = next(inside for inside in up if inside != gates[0])
        return {gates[0]: ("gate",), rest: ("up",), down[0]: ("down",)}
    return {}


def words(name: str) -> set[str]:
    """The words of a name: `attn_query2` has attn and query, `outProj` has out and proj."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def _leaf(inside: str) -> str:
    """The last part of a path that is a name."""
    return next((part for part in reversed(inside.split(".")) if not part.isdigit() and part != "linear"), inside)


BY_HEAD = "@head"  # behind a mapping's fused roles: their rows repeat for every head


class Found(NamedTuple):
    """A weight with its layer and roles; `parts` gives the rows of each role of a fused weight, where known."""

    layer: int
    weight: Weight
    roles: Roles
    parts: dict[str, Spans] | None
    source: str


@dataclass(frozen=True)
class BlockReading:
    """What was read of a model's blocks."""

    layers: int
    found: tuple[Found, ...]
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
    model_type = str(config.model_type)
    blocks: dict[tuple[str, int], dict[str, Weight]] = {}
    for weight in weights:
        place = place_of(weight.name)
        if place and (not is_elsewhere(weight, place) or mapping):
            blocks.setdefault((place.stem, place.number), {})[place.inside] = weight
    read = _roles_in(blocks, config, mapping)
    mixers = (
        []
        if mapping
        else [
            (place, weight, ("mixer",), "name")
            for weight in weights
            if weight.experts == 1 and (place := place_of(weight.name)) and is_adaptable_mixer(weight, place)
        ]
    )
    stems: dict[str, set[str]] = {}
    for at, _, roles, _ in read:
        stems.setdefault(at.stem, set()).update(roles)
    for at, *_ in mixers:  # where they stand beside attention's blocks, these number the layers
        if not any(at.stem == stem for stem in stems):
            stems[at.stem] = {"mixer"}
    if not stems:  # nothing has a role: the longest list of blocks, for who names modules
        places = Counter(place.stem for place in (place_of(weight.name) for weight in weights) if place)
        stems = {stem: set() for stem, _ in places.most_common(1)}
    offsets, layers = _number_layers(stems, model)
    return BlockReading(
        layers=layers,
        found=tuple(
            Found(
                offsets[place.stem] + place.number,
                weight,
                roles,
                _parts(weight, roles, of_layer(config, place.number), model_type, mapping),
                source,
            )
            for place, weight, roles, source in (*read, *mixers)
        ),
        offsets=offsets,
    )


def _roles_in(
    blocks: Mapping[tuple[str, int], Mapping[str, Weight]], config: Any, mapping: Mapping[str, str]
) -> list[tuple[BlockPlace, Weight, Roles, str]]:
    """Each weight that has roles, with these and how they were found."""
    mapped, model_type = _by_mapping(blocks, mapping), str(config.model_type)
    read: list[tuple[BlockPlace, Weight, Roles, str]] = []
    inferred: dict[Any, dict[str, Roles]] = {}  # blocks of one kind are read once
    for (stem, index), block in blocks.items():
        if mapping:
            known = {inside: mapped[inside] for inside in block if inside in mapped}
        else:
            by_name = {inside: roles_of(BlockPlace(stem, index, inside), model_type) for inside in block}
            closed = {inside for inside, roles in OF_TYPE.get(model_type, {}).items() if not roles}
            block = {inside: weight for inside, weight in block.items() if inside not in closed}
            known = {inside: roles for inside, roles in by_name.items() if roles}
            known = _shared_values(_fused_gates(block, known), model_type)
        read += [
            (BlockPlace(stem, index, inside), block[inside], roles, "mapping" if mapping else "name")
            for inside, roles in known.items()
        ]
        kind = tuple((inside, weight.d_in, weight.d_out) for inside, weight in block.items())
        if kind not in inferred:
            inferred[kind] = {} if mapping else infer(block, known, number(config, "hidden_size"))
        read += [
            (BlockPlace(stem, index, inside), block[inside], roles, "structure")
            for inside, roles in inferred[kind].items()
        ]
    return read


def _parts(
    weight: Weight, roles: Roles, config: Any, model_type: str, mapping: Mapping[str, str]
) -> dict[str, Spans] | None:
    """Rows of each role of a fused weight."""
    if len(roles) == 1:
        return None
    if weight.experts > 1 and roles == ("gate", "up") and weight.parameter == "gate_up_proj":
        if weight.interleaved:
            return alternating(roles, weight.d_out)
        return repeated(roles, (weight.d_out // 2,) * 2, 1)
    if mapping:
        return _mapped_parts(weight, roles, config, mapping)
    return spans_of(roles, weight.d_out, config, model_type)


def _mapped_parts(weight: Weight, roles: Roles, config: Any, mapping: Mapping[str, str]) -> dict[str, Spans] | None:
    heads = number(config, "num_attention_heads") or 0
    kv_heads = number(config, "num_key_value_heads") or heads
    by_head = "+".join(roles) + BY_HEAD in mapping
    if not {"q", "k", "v"} & set(roles):
        return repeated(roles, (weight.d_out // len(roles),) * len(roles), 1)
    groups = kv_heads if by_head else 1
    share = {"q": heads // groups if groups else 0, "k": kv_heads // groups if groups else 0}
    share["v"] = share["k"]
    total = groups * sum(share.get(role, 0) for role in roles)
    if not total or weight.d_out % total:
        return None
    width = weight.d_out // total
    return repeated(roles, [share[role] * width for role in roles], groups)


def _fused_gates(block: Mapping[str, Weight], known: dict[str, Roles]) -> dict[str, Roles]:
    """An `up` that is twice as wide as what `down` takes holds the gate as well (moshi's fc1)."""
    roles = {role for one in known.values() for role in one}
    if "gate" in roles or not {"up", "down"} <= roles:
        return known
    inner = {block[inside].d_in for inside, one in known.items() if one == ("down",)}
    return {
        inside: ("gate", "up") if one == ("up",) and inner == {block[inside].d_out // 2} else one
        for inside, one in known.items()
    }


def _shared_values(known: dict[str, Roles], model_type: str) -> dict[str, Roles]:
    """A key projection without one for values beside it gives both (gemma4's attention_k_eq_v)."""
    roles = {role for one in known.values() for role in one}
    if "v" in roles or not {"q", "k"} <= roles or model_type in OF_TYPE:
        return known
    return {inside: ("k", "v") if one == ("k",) else one for inside, one in known.items()}


def _by_mapping(blocks: Mapping[tuple[str, int], Mapping[str, Weight]], mapping: Mapping[str, str]) -> dict[str, Roles]:
    """Roles by path inside the block, as the model's YAML tells them."""
    result: dict[str, Roles] = {}
    paths = list(dict.fromkeys(inside for block in blocks.values() for inside in block))
    for key, module in mapping.items():
        roles = tuple(key.removesuffix(BY_HEAD).split("+"))
        if strangers := [role for role in roles if role not in ROLES]:
            raise ModelError(
                f"model.roles.{key}", f"'{strangers[0]}' is not a role.", f"Take of {', '.join(ROLES)}; q+k+v is fused."
            )
        matches = [path for path in paths if path == module or path.endswith(f".{module}")]
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
