import pytest

from lorascope.targets.roles import is_elsewhere, place_of, roles_of
from lorascope.targets.weights import Weight


@pytest.mark.parametrize(
    ("path", "layer", "roles"),
    [
        ("model.layers.3.self_attn.q_proj", 3, ("q",)),
        ("model.layers.11.mlp.down_proj", 11, ("down",)),
        ("model.layers.0.self_attn.qkv_proj", 0, ("q", "k", "v")),
        ("model.layers.0.mlp.gate_up_proj", 0, ("gate", "up")),
        ("transformer.h.5.attn.c_attn", 5, ("q", "k", "v")),
        ("transformer.h.5.attn.c_proj", 5, ("o",)),
        ("transformer.h.5.mlp.c_proj", 5, ("down",)),
        ("gpt_neox.layers.2.attention.dense", 2, ("o",)),
        ("gpt_neox.layers.2.mlp.dense_4h_to_h", 2, ("down",)),
        ("model.layers.1.self_attn.dense", 1, ("o",)),
        ("model.layers.1.mlp.fc1", 1, ("up",)),
        ("model.decoder.layers.4.self_attn.out_proj", 4, ("o",)),
    ],
)
def test_a_projection_is_known_by_its_name_and_place(path, layer, roles):
    place = place_of(path)
    assert place is not None
    assert (place.number, roles_of(place, "any")) == (layer, roles)


@pytest.mark.parametrize("path", ["lm_head", "model.embed_tokens", "score"])
def test_what_stands_outside_the_blocks_has_no_place(path):
    assert place_of(path) is None


@pytest.mark.parametrize(
    "path",
    [
        "model.layers.0.mlp.gate.down_proj",  # zaya's router
        "model.decoder.layers.0.encoder_attn.q_proj",
        "model.layers.0.cross_attn.q_proj",
        "model.vision_tower.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.indexer.q_proj",
        "model.layers.0.input_layernorm.mlp.fc1",
    ],
)
def test_what_only_looks_like_attention_or_ffn_is_elsewhere(path):
    place = place_of(path)
    assert place is not None
    assert is_elsewhere(Weight(path, 8, 8, owners=("Model",) * 5), place)


def test_linear_attention_is_no_softmax_attention_whatever_its_names():
    place = place_of("model.layers.0.self_attn.q_proj")
    assert place is not None
    owners = ("KimiLinearForCausalLM", "KimiLinearModel", "ModuleList", "KimiLinearDecoderLayer", "{}")
    for kind, elsewhere in (("KimiLinearDeltaAttention", True), ("KimiLinearAttention", False)):
        weight = Weight("model.layers.0.self_attn.q_proj", 8, 8, owners=(*owners[:4], kind))
        assert is_elsewhere(weight, place) is elsewhere


def test_a_gate_in_attention_is_not_the_ffns():
    assert roles_of(place_of("model.layers.0.self_attn.gate_proj"), "afmoe") == ("o_gate",)
    assert roles_of(place_of("model.layers.0.mlp.gate_proj"), "afmoe") == ("gate",)
