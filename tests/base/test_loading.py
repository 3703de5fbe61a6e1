import shutil

import pytest
import torch

from helpers import CHAT_TEMPLATE
from lorascope.base import hub
from lorascope.base.loading import check_quantized, load_base, quantized_modules
from lorascope.compose import compose
from lorascope.config.machine import resolve
from lorascope.config.schema import Device, Dtype, Scheme
from lorascope.errors import ConfigError, ModelError
from lorascope.targets.module_map import inspect_model


def words(tiny, *more):
    return compose(["model=hf", f"model.path={tiny}", "device=cpu", *more])


def test_auto_is_decided_for_this_machine(tiny):
    config = resolve(words(tiny))
    assert config.device is Device.cpu
    assert config.quantization.scheme is Scheme.none
    assert config.model.dtype in (Dtype.bfloat16, Dtype.float32)


@pytest.mark.parametrize(("scheme", "modules"), [("none", 0), ("nf4", 14), ("int8", 14)])
def test_a_base_is_stored_as_asked(tiny, scheme, modules):
    base = load_base(resolve(words(tiny, f"quantization={scheme}")))
    assert quantized_modules(base.model) == modules  # two layers of seven; lm_head is left alone
    assert not any(p.requires_grad for p in base.model.parameters())
    assert base.tokenizer.chat_template == CHAT_TEMPLATE
    check_quantized(base.model, Scheme(scheme))


def test_a_hubs_base_has_the_commit_that_was_loaded(tiny, tmp_path, monkeypatch):
    import huggingface_hub.constants

    commit, cached = "0" * 40, tmp_path / "models--org--name"
    shutil.copytree(tiny, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert load_base(resolve(words("org/name"))).revision == commit
    assert load_base(resolve(words(tiny))).revision == "local"


def test_nf4_weights_are_four_bits_with_quantized_constants(tiny):
    import bitsandbytes as bnb

    base = load_base(resolve(words(tiny, "quantization=nf4")))
    weight = base.model.model.layers[0].mlp.down_proj.weight
    assert isinstance(weight, bnb.nn.Params4bit)
    assert weight.dtype == torch.uint8
    assert weight.numel() == 64 * 32 / 2
    assert weight.quant_state.quant_type == "nf4"
    assert weight.quant_state.nested  # double quantization


def test_a_forward_pass_leaves_4_bit_weights_as_they_are(tiny):
    base = load_base(resolve(words(tiny, "quantization=nf4")))
    before = {name: p.clone() for name, p in base.model.named_parameters()}
    with torch.no_grad():
        base.model(torch.arange(4, 20)[None])
    assert all(torch.equal(before[name], p) for name, p in base.model.named_parameters())


def test_a_base_that_was_to_be_quantized_and_is_not_is_refused(tiny):
    base = load_base(resolve(words(tiny)))
    with pytest.raises(ModelError, match="no module of this model was quantized"):
        check_quantized(base.model, Scheme.nf4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"device=cuda: torch .* finds no such device.\n  Here: cpu"):
        resolve(compose(["device=cuda"]))


def test_a_hub_model_without_a_hub_says_how_to_go_on(monkeypatch):
    monkeypatch.setattr(hub, "reachable", lambda model: False)
    with pytest.raises(ModelError, match=r"cannot be reached(.|\n)*dry_run=true"):
        load_base(resolve(compose(["model=mistral7b", "device=cpu"])))


def test_a_gated_model_says_what_to_accept():
    import httpx
    from huggingface_hub.errors import GatedRepoError

    config = compose(["model=mistral7b"]).model
    refusal = GatedRepoError("no", response=httpx.Response(403, request=httpx.Request("GET", "http://hub")))
    assert "gated" in str(hub.explain(refusal, config))
    assert "HF_TOKEN" in str(hub.explain(refusal, config))


def folder_with(tmp_path, **settings):
    import json

    (tmp_path / "config.json").write_text(json.dumps(settings))
    return words(tmp_path)


def test_a_model_type_that_transformers_does_not_know_is_named(tmp_path):
    with pytest.raises(
        ModelError, match=r"model type 'brandnew' is unknown to transformers \d(.|\n)*later transformers"
    ):
        inspect_model(folder_with(tmp_path, model_type="brandnew").model)


def test_a_model_that_brings_its_own_code_is_refused(tmp_path):
    code = {
        "AutoConfig": "configuration_x.XConfig",
        "AutoModelForCausalLM": "modeling_x.X",
        "AutoTokenizer": ["t.X", None],
    }
    config = folder_with(tmp_path, model_type="own", auto_map=code)
    with pytest.raises(ModelError, match="brings its own code, which lorascope does not run"):
        inspect_model(config.model)


def test_a_folder_whose_weights_are_broken_is_one_message(tiny, tmp_path):
    import shutil

    shutil.copytree(tiny, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match=r"model.path=.*broken cannot be loaded"):
        load_base(resolve(words(tmp_path / "broken")))


def test_weights_that_differ_from_the_preset_are_told(tiny):
    from lorascope.base.architecture import architecture_notes

    base = load_base(resolve(words(tiny)))
    right = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2}
    preset = compose(["model=mistral7b"]).model
    preset.architecture = right
    assert architecture_notes(base.model.config, preset) == []
    preset.architecture = right | {"num_hidden_layers": 3}
    assert architecture_notes(base.model.config, preset) == [
        "num_hidden_layers of the loaded model is 2, the preset says 3"
    ]
