import contextlib
import random

import pytest
import torch

from helpers import make_model
from lorascope.base.restore import Seal, checksum


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.int64, torch.bool])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1000])
def test_a_change_of_any_one_byte_changes_the_sum(dtype, size):
    generator = torch.Generator().manual_seed(size)
    width = torch.empty(0, dtype=dtype).element_size()
    raw = torch.randint(0, 2, (size * width,), generator=generator, dtype=torch.uint8)
    known, draw = checksum(raw.clone().view(dtype)), random.Random(0)
    assert checksum(raw.clone().view(dtype)) == known
    for _ in range(min(30, size * width)):
        other = raw.clone()
        other[draw.randrange(len(other))] ^= 1
        assert checksum(other.view(dtype)) != known


def test_two_values_that_change_places_change_the_sum():
    values = torch.arange(100, dtype=torch.float32)
    other = values.clone()
    other[[3, 60]] = other[[60, 3]]
    assert checksum(values) != checksum(other)


def test_a_view_has_the_sum_of_its_copy():
    whole = torch.arange(50, dtype=torch.int16)
    assert checksum(whole[3:21]) == checksum(whole[3:21].clone())


def wrapped(model) -> None:
    forward = model.forward
    model.forward = lambda *words, **named: forward(*words, **named)


def adapted(model) -> None:
    from peft import LoraConfig, get_peft_model

    get_peft_model(model, LoraConfig(target_modules=["q_proj", "lm_head"], modules_to_save=["norm"], use_dora=True))


CHANGES = {
    "an adapter": adapted,
    "a gradient": lambda model: setattr(model.lm_head.weight, "grad", torch.zeros_like(model.lm_head.weight)),
    "what is trained": lambda model: model.lm_head.weight.requires_grad_(not model.lm_head.weight.requires_grad),
    "a mode": lambda model: model.model.layers[1].train(not model.training),
    "a hook": lambda model: model.model.embed_tokens.register_forward_hook(lambda *_: 0),
    "a hook before": lambda model: model.model.layers[0].register_forward_pre_hook(lambda *_: 0),
    "a wrapped forward": wrapped,
    "checkpointing": lambda model: model.gradient_checkpointing_enable(),
    "gradients of inputs": lambda model: model.enable_input_require_grads(),
    "another module": lambda model: setattr(model.model.layers[0], "mlp", torch.nn.Identity()),
    "one module more": lambda model: model.model.add_module("more", torch.nn.Linear(2, 2)),
    "a setting": lambda model: setattr(model.config, "use_cache", not model.config.use_cache),
    "a setting for writing": lambda model: setattr(model.generation_config, "temperature", 3.0),
}


def traits(model) -> list:
    """What of a model a training could notice, gathered without the seal."""
    found = [model.config.to_dict(), model.generation_config.to_dict()]
    for name, module in model.named_modules():
        hooks = [len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks)]
        found.append((name, type(module), module.training, hooks, sorted(vars(module)), module.forward.__func__))
        found.append(getattr(module, "gradient_checkpointing", None))
    found += [(name, id(one), one.requires_grad, one.grad is None) for name, one in model.named_parameters()]
    return found


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_was_put_on_a_base_comes_off(what):
    model = make_model().eval()
    before, sealed = traits(model), Seal(model)
    CHANGES[what](model)
    with contextlib.suppress(AttributeError):  # a function where a method was
        assert traits(model) != before
    sealed.put_back()
    assert traits(model) == before
    assert sealed.changed(model) == ""


def test_a_handle_from_before_still_takes_its_hook_off():
    model = make_model()
    handle = model.lm_head.register_forward_hook(lambda *_: None)
    sealed = Seal(model)
    model.lm_head.register_forward_hook(lambda *_: None)
    sealed.put_back()
    assert len(model.lm_head._forward_hooks) == 1
    handle.remove()
    assert len(model.lm_head._forward_hooks) == 0


def test_a_value_or_buffer_that_changed_is_named():
    model = make_model()
    sealed = Seal(model)
    weight = model.model.layers[1].mlp.up_proj.weight.data
    before = weight[3, 5].item()
    weight[3, 5] += 1
    assert sealed.changed(model) == "model.layers.1.mlp.up_proj.weight"
    weight[3, 5] = before
    model.model.rotary_emb.inv_freq.data[0] += 1
    assert sealed.changed(model) == "model.rotary_emb.inv_freq"


def test_what_bitsandbytes_keeps_beside_a_weight_is_seen_too(tiny):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    model = AutoModelForCausalLM.from_pretrained(tiny, quantization_config=settings)
    sealed = Seal(model)
    assert any("state2" in name for name in sealed.sums)
    assert sealed.changed(model) == ""
    model.model.layers[0].mlp.up_proj.weight.quant_state.absmax[0] += 1
    assert "quant_state.absmax" in sealed.changed(model)
