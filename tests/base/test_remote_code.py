"""A model's own code runs only when it was asked for, and from the hub at a pinned commit only."""

import json
import textwrap

import pytest

from helpers import make_model, make_tokenizer
from lorascope.base.loading import load_base
from lorascope.compose import compose
from lorascope.errors import ConfigError, ModelError
from lorascope.targets.module_map import inspect_model

CODE = """
    from pathlib import Path

    from transformers import LlamaConfig, LlamaForCausalLM

    Path(__file__).with_name("ran").touch()


    class OwnConfig(LlamaConfig):
        model_type = "own-llama"


    class OwnForCausalLM(LlamaForCausalLM):
        config_class = OwnConfig
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    place = tmp_path / "own"
    make_model().save_pretrained(place)
    make_tokenizer().save_pretrained(place)
    (place / "own.py").write_text(textwrap.dedent(CODE))
    config = json.loads((place / "config.json").read_text())
    config |= {
        "model_type": "own-llama",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
    }
    (place / "config.json").write_text(json.dumps(config))
    return place


def ran(tmp_path):
    return list(tmp_path.rglob("ran"))


def test_unasked_it_does_not_run_and_the_message_says_how_to_ask(folder, tmp_path):
    with pytest.raises(ModelError, match="brings its own code") as caught:
        inspect_model(compose(["model=hf", f"model.path={folder}"]).model)
    assert "model.trust_remote_code=true model.revision=COMMIT" in str(caught.value)
    assert not ran(tmp_path)


def test_asked_for_it_is_planned_and_loaded(folder, tmp_path):
    words = ["model=hf", f"model.path={folder}", "model.trust_remote_code=true", "device=cpu", "model.dtype=float32"]
    config = compose([*words, "quantization=none"])
    assert inspect_model(config.model).roles == ("q", "k", "v", "o", "gate", "up", "down")
    assert type(load_base(config).model).__name__ == "OwnForCausalLM"
    assert ran(tmp_path)


@pytest.mark.parametrize("revision", ["main", "v1.0", "abc123"])
def test_from_the_hub_only_a_whole_commit_will_do(revision):
    words = ["model=hf", "model.path=org/name", "model.trust_remote_code=true", f"model.revision='{revision}'"]
    with pytest.raises(ConfigError, match=r"must be a full commit with model.trust_remote_code=true \(got"):
        compose(words)
    compose([*words, f"model.revision={'0123456789' * 4}"])


@pytest.mark.parametrize("name", ["/etc/passwd", "../other/model.gguf", "a/../../b.gguf", "~/x.gguf"])
def test_a_packaged_file_lies_inside_its_package(name):
    with pytest.raises(ConfigError, match="must lie inside the package"):
        compose([f"model.package_file='{name}'"])
