import pytest
import torch

from conftest import CHAT_TEMPLATE
from lorascope.compose import compose
from lorascope.config import Device, Dtype, Scheme
from lorascope.errors import ConfigError, ModelError
from lorascope.models import hub
from lorascope.models.device import resolve
from lorascope.models.loading import check_quantized, load_base, quantized_modules


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
