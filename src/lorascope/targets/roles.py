"""The role of a projection in its block, by its name and place."""

from __future__ import annotations

import re
from typing import NamedTuple

from lorascope.config.schema import GROUPS
from lorascope.targets.weights import Weight

Roles = tuple[str, ...]

# Leaf names in attention. Several roles: one fused module, in the order that `spans_of` knows.
IN_ATTENTION: dict[str, Roles] = {
    "q_proj": ("q",), "k_proj": ("k",), "v_proj": ("v",), "o_proj": ("o",), "out_proj": ("o",), "dense": ("o",),
    "wq": ("q",), "wk": ("k",), "wv": ("v",), "wo": ("o",), "Wo": ("o",), "c_proj": ("o",),
    "qkv_proj": ("q", "k", "v"), "query_key_value": ("q", "k", "v"), "Wqkv": ("q", "k", "v"), "c_attn": ("q", "k", "v"),
    "q_a_proj": ("latent",), "kv_a_proj_with_mqa": ("latent",), "q_b_proj": ("q",), "kv_b_proj": ("k", "v"),
    "gate_proj": ("o_gate",), "g_proj": ("o_gate",),
}  # fmt: skip
# Leaf names in the FFN, an expert stack's parameters among them.
IN_FFN: dict[str, Roles] = {
    "gate_proj": ("gate",), "up_proj": ("up",), "down_proj": ("down",), "gate_up_proj": ("gate", "up"),
    "w1": ("gate",), "w3": ("up",), "w2": ("down",), "fc1": ("up",), "fc2": ("down",), "c_fc": ("up",),
    "c_proj": ("down",), "fc_in": ("up",), "fc_out": ("down",),
    "input_linear": ("gate", "up"), "output_linear": ("down",), "dense_h_to_4h": ("up",), "dense_4h_to_h": ("down",),
}  # fmt: skip
# Of some types, PEFT renames these when it loads an adapter, and then does not find their weights.
SHARED_EXPERTS = tuple(f"mlp.shared_experts.{leaf}_proj" for leaf in ("gate", "up", "down"))
# What one model type alone calls so: the path inside the block.
OF_TYPE: dict[str, dict[str, Roles]] = {
    "axk2": {"self_attn.q_gate_proj": ("q", "o_gate")},
    "cpmant": {"ffn.ffn.w_in.w_0": ("gate",), "ffn.ffn.w_in.w_1": ("up",), "ffn.ffn.w_out": ("down",)},
    "ctrl": {"ffn.0": ("up",), "ffn.2": ("down",)},
    "deepseek_v4": {"self_attn.kv_proj": ("k", "v"), "self_attn.o_b_proj": ("o",)},
    "doge": {"self_attn.v_proj": ()},  # its values decide the mask as well
    "laguna": dict.fromkeys(SHARED_EXPERTS, ()),
    "mistral_large4_text": dict.fromkeys((*SHARED_EXPERTS, "mlp.experts.gate_up_proj", "mlp.experts.down_proj"), ()),
    "jetmoe": {
        "self_attention.experts.input_linear.weight": ("q",),
        "self_attention.experts.output_linear.weight": ("o",),
        "self_attention.kv_proj": ("k", "v"),
    },
    "modernbert-decoder": {"mlp.Wi": ("gate", "up"), "mlp.Wo": ("down",)},
    "qwen3_5_moe_text": {"self_attn.q_proj": ("q", "o_gate")},
    "qwen3_5_text": {"self_attn.q_proj": ("q", "o_gate")},
    "qwen3_next": {"self_attn.q_proj": ("q", "o_gate")},
    "qwen4_exp_text": {"self_attn.q_proj": ("q", "o_gate")},
    "zaya": {"self_attn.qkv_proj.v_proj_current": ("v",), "self_attn.qkv_proj.v_proj_delayed": ("v",)},
}
ATTENTION_PLACE = re.compile(r"(^|[._])(attn|attention|self_att|rel_attn|temporal_block|mixer)([._]|$)", re.IGNORECASE)
FFN_PLACE = re.compile(r"(^|[._])(mlps?|ffn|feed_?forward|moe|mixer|experts?)([._]|$)", re.IGNORECASE)
# Places that are neither: other modalities, attention to an encoder, routers, adapters of the model's own.
ELSEWHERE = re.compile(
    r"(^|\.)(visual|image|encoder_attn|crossattention|router|gate\.|indexer|compressor|forget_gate|embed|adapter"
    r"|patcher|mlstm_layer|laurel|altup|per_layer|\w*sconv)|adapter_list|cross_attn|vision|audio"
)
NORM = re.compile(r"layernorm\.")  # axk2 has small FFNs in its norms
# Types on which an adapter cannot be trained at all, and why.
FUTURE = "sees the future: a later token changes the logits before it, so its eval loss is worthless"
UNTRAINABLE = {
    "reformer": "its reversible layers give no gradient to an adapter on a frozen base",
    **dict.fromkeys(("cpmant", "paligemma", "xlnet"), FUTURE),
    "shieldgemma2": "it classifies images",
    "molmo2": "its training asks for mm_token_type_ids, which a text does not have",
    **dict.fromkeys(
        ("deepseek_ocr2", "unlimited_ocr"), "PEFT renames its adapter's weights and does not load them again"
    ),
}
# Types that see the future unless this setting of their config is true; transformers' causal class does not set it.
CAUSAL_BY = {
    **dict.fromkeys(
        (
            "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert",
            "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl",
            "xmod",
        ),
        "is_decoder",
    ),
    "xlm": "causal",
}  # fmt: skip
# Owners whose q, k and v are no softmax attention's: state spaces, linear attention, convolutions.
MIXERS = re.compile(
    r"Mamba|BambaMixer|FalconH1Mixer|Lightning|DeltaNet|DeltaAttention|ShortConv|Rwkv|LSTMLayer|RecurrentBlock"
)
# Modules of mixers whose weights the fast kernels read past any adapter, by their owner.
PAST_ADAPTERS = {
    re.compile(r"^(Falcon)?MambaMixer$"): ("x_proj", "dt_proj", "out_proj"),
    re.compile(r"^JambaMambaMixer$"): ("dt_proj",),
    re.compile(r"Mamba2Mixer$|^Zamba2MambaMixer$|MambaLayer$|^BambaMixer$|^FalconH1Mixer$"): ("out_proj",),
}
NO_MIXER = re.compile(r"FeedForward|DynamicShortConv")  # RWKV's channel mixing; Inkling's convolutions over k and v
LAYER = re.compile(r"^(?P<stem>.*?)\.(?P<layer>\d+)\.(?P<inside>.+)$")


class BlockPlace(NamedTuple):
    """Where a weight stands: the list of blocks, its number there, and its path inside the block."""

    stem: str
    number: int
    inside: str


def place_of(name: str) -> BlockPlace | None:
    """A weight's place; None outside the blocks.

    Example:
        >>> place_of("model.layers.3.self_attn.q_proj")
        BlockPlace(stem='model.layers', number=3, inside='self_attn.q_proj')
    """
    found = LAYER.match(name)
    return BlockPlace(found["stem"], int(found["layer"]), found["inside"]) if found else None


def is_called(path: str, name: str) -> bool:
    """Whether a name is a path, or what stands behind its last dots, as PEFT matches them."""
    return path == name or path.endswith(f".{name}")


def mixer_of(weight: Weight, place: BlockPlace) -> str:
    """The class of the recurrent mixer that a weight belongs to; empty for all others."""
    inside = weight.owners[place.stem.count(".") + 3 :]  # below the model, its list of blocks, and the block
    owner = next((one for one in reversed(inside) if MIXERS.search(one)), "")
    return "" if NO_MIXER.search(owner) or NORM.search(place.inside) else owner


def is_adaptable_mixer(weight: Weight, place: BlockPlace) -> bool:
    """Whether an adapter on this part of a recurrent mixer is heard on every device."""
    owner, leaf = mixer_of(weight, place), place.inside.rpartition(".")[2]
    return bool(owner) and not any(
        pattern.search(owner) and leaf in leaves for pattern, leaves in PAST_ADAPTERS.items()
    )


def is_elsewhere(weight: Weight, place: BlockPlace) -> bool:
    """Whether a weight belongs to no attention and no FFN of a language model's block."""
    own = weight.owners[place.stem.count(".") + 3 :]  # below the model, its list of blocks, and the block
    return bool(
        any(MIXERS.search(owner) for owner in own)
        or any("CrossAttentionDecoderLayer" in owner for owner in weight.owners)  # idle without another modality
        or any(pattern.search(place.inside) for pattern in (ELSEWHERE, NORM))
        or ELSEWHERE.search(place.stem)
    )


def roles_of(place: BlockPlace, model_type: str) -> Roles:
    """The roles that a table of names gives; none where no table speaks."""
    if place.inside in (own := OF_TYPE.get(model_type, {})):
        return own[place.inside]
    parent, _, leaf = place.inside.rpartition(".")
    if leaf in ("linear", "weight"):  # moshi keeps its projections in a module of their own
        parent, _, leaf = parent.rpartition(".")
    if ATTENTION_PLACE.search(parent) and (roles := IN_ATTENTION.get(leaf)):
        return roles if not (leaf == "gate_proj" and FFN_PLACE.search(parent)) else IN_FFN[leaf]
    if (not parent or FFN_PLACE.search(parent)) and (roles := IN_FFN.get(leaf)):
        return roles
    return ()


def group_of(role: str) -> str:
    """`attention`, `ffn` or `mixer`."""
    return next((group for group in ("attention", "ffn") if role in GROUPS[group]), "mixer")
