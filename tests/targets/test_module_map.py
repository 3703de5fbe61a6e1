import pytest
from transformers import AutoConfig

from lorascope.compose import compose
from lorascope.config.schema import ModelConfig
from lorascope.errors import ModelError
from lorascope.targets.module_map import inspect_model


def architecture(model_type: str, **settings) -> ModelConfig:
    return ModelConfig(name=model_type, path="org/name", architecture={"model_type": model_type, **settings})


def test_mistral_is_seen_as_32_layers_of_seven_roles():
    modules = inspect_model(compose(["model=mistral7b"]).model)
    assert (modules.layers, modules.hidden, modules.intermediate) == (32, 4096, 14336)
    assert (modules.heads, modules.kv_heads) == (32, 8)
    assert modules.parameters == 7_241_732_096  # the published size
    assert modules.roles == ("q", "k", "v", "o", "gate", "up", "down")
    assert len(modules.projections) == 32 * 7
    shapes = {p.role: (p.d_in, p.d_out) for p in modules.projections}
    assert shapes["q"] == shapes["o"] == (4096, 4096)
    assert shapes["k"] == shapes["v"] == (4096, 1024)
    assert shapes["gate"] == shapes["up"] == (4096, 14336)
    assert shapes["down"] == (14336, 4096)
    assert modules.unmapped == ("lm_head",)


def test_tied_embeddings_are_counted_once():
    modules = inspect_model(compose(["model=smollm2"]).model)
    assert modules.tied_embeddings
    assert modules.parameters == 134_515_008  # the published size of SmolLM2-135M


def test_no_weights_are_loaded(monkeypatch):
    from transformers import PreTrainedModel

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", None)
    inspect_model(compose(["model=mistral7b"]).model)


SMALL = {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("model_type", "settings", "shapes"),
    [
        (
            "phi3",
            SMALL | {"intermediate_size": 96, "num_key_value_heads": 2, "pad_token_id": 0},
            {
                "q": (64, 64),
                "k": (64, 32),
                "v": (64, 32),
                "o": (64, 64),
                "gate": (64, 96),
                "up": (64, 96),
                "down": (96, 64),
            },
        ),
        (
            "gpt2",
            {"vocab_size": 100, "n_embd": 64, "n_layer": 2, "n_head": 4},
            {"q": (64, 64), "k": (64, 64), "v": (64, 64), "o": (64, 64), "up": (64, 256), "down": (256, 64)},
        ),
        (
            "gpt_neox",
            SMALL | {"intermediate_size": 128},
            {"q": (64, 64), "k": (64, 64), "v": (64, 64), "o": (64, 64), "up": (64, 128), "down": (128, 64)},
        ),
        (
            "phi",
            SMALL | {"intermediate_size": 128},
            {"q": (64, 64), "k": (64, 64), "v": (64, 64), "o": (64, 64), "up": (64, 128), "down": (128, 64)},
        ),
    ],
)
def test_fused_and_ungated_blocks_are_read_by_role(model_type, settings, shapes):
    modules = inspect_model(architecture(model_type, **settings))
    assert {p.role: (p.d_in, p.d_out) for p in modules.projections} == shapes
    assert modules.layers == 2


def test_an_architecture_that_is_no_language_model_is_refused():
    with pytest.raises(ModelError, match="no causal language model"):
        inspect_model(architecture("vit"))


def test_an_unknown_model_type_is_refused_in_one_line():
    with pytest.raises(ModelError) as caught:
        inspect_model(architecture("nope"))
    assert len(str(caught.value)) < 250


def test_a_local_folder_is_read_without_its_weights(tiny, tmp_path):
    folder = tmp_path / "only-config"
    folder.mkdir()
    AutoConfig.from_pretrained(tiny).save_pretrained(folder)
    modules = inspect_model(ModelConfig(name="hf", path=str(folder)))
    assert len(modules.projections) == 2 * 7


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"has no config\.json"):
        inspect_model(ModelConfig(name="hf", path=str(tmp_path)))
