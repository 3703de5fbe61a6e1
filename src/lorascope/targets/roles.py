"""What a projection does in a block, whatever its model calls it: a module's path comes in, its roles come out."""

from __future__ import annotations

import re
from typing import NamedTuple

from lorascope.config import ATTENTION_ROLES, FFN_ROLES

# Leaf names that mean one thing wherever they stand. Several roles: one fused module.
NAMES: dict[str, tuple[str, ...]] = {
    "q_proj": ("q",),
    "k_proj": ("k",),
    "v_proj": ("v",),
    "o_proj": ("o",),
    "qkv_proj": ("q", "k", "v"),
    "query_key_value": ("q", "k", "v"),
    "Wqkv": ("q", "k", "v"),
    "c_attn": ("q", "k", "v"),
    "gate_proj": ("gate",),
    "up_proj": ("up",),
    "down_proj": ("down",),
    "gate_up_proj": ("gate", "up"),
    "dense_h_to_4h": ("up",),
    "dense_4h_to_h": ("down",),
    "c_fc": ("up",),
    "fc_in": ("up",),
    "fc_out": ("down",),
    "fc1": ("up",),
    "fc2": ("down",),
}
# Leaf names that mean something only inside attention, or only inside the FFN.
IN_ATTENTION = {"out_proj": "o", "dense": "o", "c_proj": "o", "wq": "q", "wk": "k", "wv": "v", "wo": "o"}
IN_FFN = {"c_proj": "down", "w1": "gate", "w3": "up", "w2": "down", "proj_1": "up", "proj_2": "down"}
ATTENTION_PLACE = re.compile(r"att(entio)?n|self_attention", re.IGNORECASE)
FFN_PLACE = re.compile(r"mlp|ffn|feed_?forward", re.IGNORECASE)
EXPERT_PLACE = re.compile(r"(^|\.)(experts?|shared_experts?)(\.|$)")
LAYER = re.compile(r"^(?P<stem>.*?)\.(?P<layer>\d+)\.(?P<inside>.+)$")


class Place(NamedTuple):
    """Where a module stands: its layer, and the roles it plays there."""

    layer: int
    roles: tuple[str, ...]


def place_of(path: str) -> Place | None:
    """Layer and roles of the linear module at `path`; None outside the blocks or where no name speaks.

    Example:
        >>> place_of("model.layers.3.self_attn.q_proj")
        Place(layer=3, roles=('q',))
    """
    found = LAYER.match(path)
    if found is None or EXPERT_PLACE.search(found["inside"]):
        return None
    parent, _, leaf = found["inside"].rpartition(".")
    roles = NAMES.get(leaf)
    if roles is None and ATTENTION_PLACE.search(parent) and leaf in IN_ATTENTION:
        roles = (IN_ATTENTION[leaf],)
    if roles is None and FFN_PLACE.search(parent) and leaf in IN_FFN:
        roles = (IN_FFN[leaf],)
    return Place(int(found["layer"]), roles) if roles else None


def group_of(role: str) -> str:
    """`attention` or `ffn`."""
    if role in ATTENTION_ROLES:
        return "attention"
    assert role in FFN_ROLES
    return "ffn"
