"""Predicted bytes of what lies still, against models that were really loaded and optimizers that really stepped."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from helpers import make_model, make_tokenizer
from lorascope.base.architecture import build_on_meta, load_architecture
from lorascope.base.loading import load_base, quantized_modules
from lorascope.compose import compose
from lorascope.config.machine import resolve
from lorascope.config.schema import AlphaPolicy, Dtype, QuantizationConfig, Scheme
from lorascope.errors import ConfigError, PlanError
from lorascope.planning.model_dims import converted_modules, survey
from lorascope.planning.run_plan import plan_run, resolve_config
from lorascope.planning.step_spec import loras, optimizer_bytes, weights_bytes
from lorascope.targets.weights import quantize_stacks, weights_of
from planning.small import planned, setting, small


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose weights are large beside what bitsandbytes adds to them."""
    place = tmp_path_factory.mktemp("model")
    make_model(hidden_size=128, intermediate_size=512, head_dim=32).save_pretrained(place)
    make_tokenizer().save_pretrained(place)
    return place


def held_bytes(model: Any) -> int:
    """Bytes of every tensor that a loaded model holds, and of what bitsandbytes needs to read it."""
    import torch

    found: dict[int, int] = {}

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found[value.untyped_storage().data_ptr()] = value.numel() * value.element_size()

    stacks = [module for module in model.modules() if type(module).__name__ == "Bnb4bitParametrization"]
    for value in (*model.parameters(), *model.buffers(), *stacks):
        state = getattr(value, "quant_state", None)
        for part in (state, getattr(state, "state2", None)):
            for name in ("absmax", "code", "offset"):
                add(getattr(part, name, None))
        add(value if isinstance(value, torch.Tensor) else None)
        add(getattr(value, "SCB", None))
    for module in model.modules():  # where an 8-bit module keeps it once it has computed
        add(getattr(getattr(module, "state", None), "SCB", None))
    return sum(found.values())


@pytest.mark.parametrize(
    ("scheme", "double_quant", "dtype"),
    [
        (Scheme.none, False, Dtype.float32),
        (Scheme.none, False, Dtype.bfloat16),
        (Scheme.nf4, True, Dtype.bfloat16),
        (Scheme.nf4, False, Dtype.bfloat16),
        (Scheme.int8, False, Dtype.bfloat16),
    ],
)
def test_weights_take_what_was_predicted(folder, scheme, double_quant, dtype):
    words = ["model=hf", f"model.path={folder}", "device=cpu", f"model.dtype={dtype}"]
    config = compose(words)
    config = resolve(
        dataclasses.replace(config, quantization=QuantizationConfig(scheme=scheme, double_quant=double_quant))
    )
    meta = build_on_meta(load_architecture(config.model)[0])
    base = load_base(config).model
    predicted = weights_bytes(survey(meta), setting(dtype=dtype, scheme=scheme, double_quant=double_quant))
    assert predicted == pytest.approx(held_bytes(base), rel=0.01)
    assert quantized_modules(base) == (len(converted_modules(meta)) if scheme is not Scheme.none else 0)


@pytest.mark.parametrize("double_quant", [True, False])
def test_experts_in_4_bit_take_what_was_predicted_and_compute_what_they_stand_for(tmp_path, double_quant):
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    folder = tmp_path / "mixtral"
    small("mixtral").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    words = ["model=hf", f"model.path={folder}", "device=cpu", "model.dtype=float32", "quantization=nf4"]
    words.append(f"quantization.double_quant={double_quant}")
    base, wanted = (load_base(resolve_config(compose([*words, *more]))).model
                    for more in (["quantization.experts=true"], []))  # fmt: skip
    quantize_stacks(base, double_quant=double_quant)
    meta = build_on_meta(load_architecture(compose(words).model)[0])
    step = setting(dtype=Dtype.float32, scheme=Scheme.nf4, double_quant=double_quant, experts=True)
    assert weights_bytes(survey(meta), step) == pytest.approx(held_bytes(base), rel=0.01)
    stacks = [one for one in weights_of(meta) if one.experts > 1]
    assert quantized_modules(base) == len(converted_modules(meta)) + len(stacks) > len(converted_modules(meta))
    for one in stacks:  # what the stacks stand for, written out beforehand
        values = wanted.get_submodule(one.module).get_parameter(one.parameter)
        packed = quantize_4bit(values.data, compress_statistics=double_quant, quant_type="nf4")
        values.data = dequantize_4bit(*packed)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(base(ids).logits, wanted(ids).logits)


def test_adapters_on_experts_in_4_bit_are_refused_by_the_plan(tmp_path):
    folder = tmp_path / "mixtral"
    small("mixtral").save_pretrained(folder)
    words = ["model=hf", f"model.path={folder}", "device=cpu", "target.lora_dropout=0", "quantization.experts=true"]
    config = resolve_config(compose([*words, "quantization=nf4", "target=ffn"]))
    with pytest.raises(PlanError, match=r"quantization.experts=true: PEFT cannot adapt experts in 4 bit"):
        plan_run(config)
    dense = resolve_config(compose(["quantization=nf4", "quantization.experts=true", "device=cpu"]))
    with pytest.raises(PlanError, match="needs stacks of experts, and this model has none"):
        plan_run(dense)
    with pytest.raises(ConfigError, match=r"is for 4-bit bases"):
        resolve_config(compose([*words, "quantization=none"]))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "mixtral", "qwen3_moe", "gemma3_text"])
def test_the_modules_that_bitsandbytes_takes_are_those_of_transformers(kind):
    from transformers import BitsAndBytesConfig
    from transformers.integrations import replace_with_bnb_linear
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

    model = small(kind)
    predicted = converted_modules(model)
    quantizer = BitsAndBytesConfig(load_in_4bit=True)
    kept = Bnb4BitHfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    replaced = replace_with_bnb_linear(model, kept, quantizer)
    assert predicted == {path for path, one in replaced.named_modules() if type(one).__name__ == "Linear4bit"}
    assert not any(path.endswith(("lm_head", "embed_out", "experts")) for path in predicted)


def test_tied_weights_count_once():
    tied, untied = survey(small("llama", tie_word_embeddings=True)), survey(small("llama", tie_word_embeddings=False))
    assert weights_bytes(untied, setting()) - weights_bytes(tied, setting()) == 4 * 300 * 96


@pytest.mark.parametrize("name", ["AdamW", "SGD", "AdamW8bit"])
def test_an_optimizer_holds_what_was_predicted(name):
    import bitsandbytes
    import torch

    sizes = [(8, 96), (96, 8), (64, 128), (128, 64)]  # of these, two are large enough for 8 bits
    tensors = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
    kinds = {"AdamW": torch.optim.AdamW, "SGD": torch.optim.SGD, "AdamW8bit": bitsandbytes.optim.AdamW8bit}
    optimizer = kinds[name](tensors, lr=1e-3)
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    optimizer.step()
    held = sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and key not in ("step", "qmap1", "qmap2")
    )
    chosen = {"AdamW": "adamw_torch", "SGD": "sgd", "AdamW8bit": "paged_adamw_8bit"}[name]
    assert optimizer_bytes([tensor.numel() for tensor in tensors], chosen) == held


def test_the_adapters_tensors_are_those_of_the_plan():
    model = small("phi3")
    plan = planned(model, {"q": 8, "v": 4, "down": 8}, alpha_policy=AlphaPolicy.proportional)
    found = loras(plan, survey(model))
    assert sum(sum(one.tensors) for one in found) == plan.stored_parameters
    fused = next(one for one in found if "qkv" in one.name)
    assert (fused.rank, fused.d_in, fused.d_out) == (12, 96, 96 + 2 * 32)
