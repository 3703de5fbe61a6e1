import pytest

from lorascope.targets.roles import Place, place_of


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
    assert place_of(path) == Place(layer, roles)


@pytest.mark.parametrize(
    "path",
    ["lm_head", "model.embed_tokens", "model.layers.0.mlp.gate", "model.layers.0.mlp.experts.7.up_proj", "score"],
)
def test_what_has_no_role_is_left_out(path):
    assert place_of(path) is None
