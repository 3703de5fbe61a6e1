"""Roles from structure, where no table of names speaks: a block's weights come in, roles by path inside it come out.

Attention is found by three projections whose names carry a mark of q, k and v, whose inputs agree, and one that leads
back; the FFN by what widens the block's width and what narrows to it again. What is not clear is left without a role.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lorascope.targets.weights import Weight

Shapes = Mapping[str, Weight]  # by path inside the block

MARKS = {
    "q": {"q", "query", "queries", "wq"},
    "k": {"k", "key", "keys", "wk"},
    "v": {"v", "value", "values", "wv"},
    "gate": {"gate", "g"},
}
OUTPUTS = {"o", "out", "output", "dense", "wo"}
ATTENTION = re.compile(r"att|mixer", re.IGNORECASE)


def infer(block: Shapes, known: Mapping[str, Sequence[str]], hidden: int | None) -> dict[str, tuple[str, ...]]:
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


def _attention(free: Shapes) -> dict[str, tuple[str, ...]]:
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


def _ffn(free: Shapes, width: int | None) -> dict[str, tuple[str, ...]]:
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
