"""Load the frozen base model and its tokenizer, quantized as asked."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.base.architecture import load_architecture, model_class
from lorascope.base.checkpoint import check_checkpoint, check_scheme, in_full, method_of, stored_scheme
from lorascope.base.hub import first_line, from_hub
from lorascope.base.packaged import is_unpacked, package_version, packed_tokenizer, unpack
from lorascope.config.schema import Attention, ModelConfig, QuantizationConfig, RunConfig, Scheme
from lorascope.config.validation import is_local
from lorascope.errors import ModelError, out_of_memory

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Base:
    """A frozen base model, ready to be read or given an adapter."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    revision: str  # the commit, or the package and its version, or `local`
    storage: str = ""  # the method that its checkpoint is quantized by


def load_base(config: RunConfig) -> Base:
    """Weights and tokenizer, quantized as asked; `config` is resolved, no `auto` is left in it.

    Raises:
        ModelError: when the model cannot be had.
    """
    import torch

    path, revision = _where(config.model)
    tokenizer = load_tokenizer(config.model)
    attention = config.model.attention
    architecture = load_architecture(dataclasses.replace(path, architecture={}))[0]  # not as a preset has it
    check_checkpoint(architecture, f"model.path={path.path}")
    check_scheme(config, architecture)
    dtype: torch.dtype = getattr(torch, str(config.model.dtype))
    quantization = _quantization_config(config.quantization, dtype)
    options: dict[str, Any] = {"quantization_config": quantization}
    if stored_scheme(architecture):
        options = {}  # transformers reads the settings from the checkpoint
    elif method_of(architecture):
        path, found = in_full(path, architecture, dtype, to_disk=quantization is not None)
        options |= found
    model, loaded = from_hub(
        model_class(architecture).from_pretrained,
        path,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # told below, by name
        dtype=dtype,
        # sdpa is asked for by default, and not every type has it: transformers then takes eager
        attn_implementation=None if attention is Attention.sdpa else str(attention),
        device_map={"": str(config.device)},
        **options,
    )
    _check_loaded(loaded, path)
    _set_4_bit_modules(model, dtype)
    model.requires_grad_(False)
    model.eval()
    model.config.use_cache = False
    check_causal(model, f"model.path={path.path}")
    # the commit that a hub's model was loaded from: its folder in the cache is called so
    commit = None if is_local(path.path or "") else base_folder(path)
    return Base(model, tokenizer, revision or (commit.name if commit else "local"), method_of(architecture))


PROBED = 16  # tokens


def check_causal(model: Any, place: str) -> None:
    """Refuse a model whose logits depend on later tokens: its loss says nothing, however low it is.

    It is asked once, by two texts that differ in their second half alone.

    Raises:
        ModelError: for such a model, and for one that cannot read token ids alone.
    """
    import torch

    known = len(model.get_input_embeddings().weight)
    first = torch.arange(PROBED) * 7 % (known - 8) + 4
    other = torch.cat([first[: PROBED // 2], (first[PROBED // 2 :] + known // 3) % (known - 8) + 4])
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            one, two = (
                model(input_ids=ids[None].to(model.device), attention_mask=torch.ones_like(ids)[None].to(model.device))
                .logits[0, : PROBED // 2]
                .float()
                for ids in (first, other)
            )
    except Exception as error:  # whatever a model's code raises
        if out_of_memory(error):
            raise
        what = f"cannot read token ids alone: {type(error).__name__}: {first_line(error)}"
        raise ModelError(place, f"{what.rstrip('.')}.", "Take a causal language model.") from error
    # a kernel may round the same row otherwise beside other rows
    apart = 1e-4 if one.dtype == model.dtype else 0.05
    if float((one - two).abs().max()) > apart * float(one.std()):
        raise ModelError(
            place,
            "sees the future: a later token changes the logits before it, so its eval loss is worthless.",
            "Take a causal language model; BERT and its like are ones only with is_decoder=true in config.json.",
        )


def _check_loaded(loaded: Mapping[str, Any], model: ModelConfig) -> None:
    """Refuse a base that is not what was trained: transformers draws at random what the weights lack, and goes on.

    Raises:
        ModelError: naming the first weight that is missing or of another shape.
    """
    place, remedy = f"model.path={model.path}", "Copy weights and config.json anew, from one place."
    if other := sorted(loaded["mismatched_keys"]):
        name, *sizes = (*other[0], "", "")[:3]
        found, wanted = (" x ".join(map(str, size)) for size in sizes)
        what = f"{name} is {found}, and {wanted} by config.json"
        raise ModelError(place, f"{what} ({len(other)} weights of another shape).", remedy)
    heads = [name for name in loaded["unexpected_keys"] if re.search(r"(^|\.)(score|classifier)\.", name)]
    if missing := sorted(loaded["missing_keys"]):
        if heads and any("lm_head" in name for name in missing):
            what = f"has a score head ({sorted(heads)[0]}) and no lm_head: it is a classifier."
            raise ModelError(place, what, "Name the language model that it was made from.")
        raise ModelError(place, f"its weights lack {missing[0]} ({len(missing)} that config.json asks for).", remedy)


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a token to pad with.

    Raises:
        ModelError: when it cannot be had.
    """
    from transformers import AutoTokenizer

    path, _ = _where(model)
    return _padding(from_hub(AutoTokenizer.from_pretrained, path), path)


def _padding(tokenizer: PreTrainedTokenizerBase, model: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer with a token to pad with, and a template that is taken without a name."""
    templates, place = tokenizer.chat_template, f"model.path={model.path}"
    if isinstance(templates, dict) and "default" not in templates:
        what = f"its tokenizer has several chat templates ({', '.join(templates)}), and none is called default."
        raise ModelError(place, what, "Save the one that is meant as chat_template.jinja in the model's folder.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        what = "its tokenizer names no token that ends a text."
        raise ModelError(place, what, "Add eos_token: tokenizer_config.json")
    return tokenizer


def tokenizer_at_hand(model: ModelConfig) -> PreTrainedTokenizerBase | None:
    """The model's tokenizer where it can be had in seconds; None where it is elsewhere or broken."""
    try:
        if model.package:
            return load_tokenizer(model) if is_unpacked(model) else _padding(packed_tokenizer(model), model)
        folder = _local_folder(model, "tokenizer_config.json")
        # as a folder: no network is asked
        return load_tokenizer(dataclasses.replace(model, path=os.path.abspath(folder))) if folder else None
    except ModelError:
        return None  # the run says what is wrong


def _where(model: ModelConfig) -> tuple[ModelConfig, str]:
    """The model as something that transformers can load, and its revision where that is known beforehand."""
    if not model.package:
        return model, ""
    return dataclasses.replace(model, path=str(unpack(model)), package=None), package_version(model)


def base_folder(model: ModelConfig) -> Path | None:
    """The local folder with the base's weights in full precision, after it was loaded; None where there is none."""
    return _local_folder(_where(model)[0], "config.json")


def _local_folder(model: ModelConfig, file: str) -> Path | None:
    """A local model's folder, or the folder of a hub's model in the cache, if this file is there."""
    from huggingface_hub import try_to_load_from_cache

    path = model.path or ""
    if is_local(path):
        return Path(os.path.expanduser(path))
    found = try_to_load_from_cache(path, file, revision=model.revision)
    return Path(found).parent if isinstance(found, str) else None


def _quantization_config(quantization: QuantizationConfig, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """bitsandbytes' settings: QLoRA's NF4 with double quantization (arXiv:2305.14314), or LLM.int8()."""
    from transformers import BitsAndBytesConfig

    if quantization.scheme is Scheme.nf4:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=quantization.double_quant,
            bnb_4bit_compute_dtype=dtype,
        )
    return BitsAndBytesConfig(load_in_8bit=True) if quantization.scheme is Scheme.int8 else None


def _set_4_bit_modules(model: Any, dtype: torch.dtype) -> None:
    """Forbid bitsandbytes to repack weights in place, and let stored ones compute in the run's dtype.

    On CPUs with AVX512-BF16 any forward without gradients repacks them for its own kernel; the backward of a
    training that follows then finds no weights that it can read. Who has quantized them had a dtype of their own.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        if hasattr(module, "compute_dtype") and hasattr(module, "quant_state"):
            module.compute_dtype, module.compute_type_is_set = dtype, True


def quantized_modules(model: Any) -> int:
    """How many linear modules and stacks of experts hold bitsandbytes weights."""
    kinds = ("bitsandbytes.nn.modules", "bitsandbytes.nn.parametrize")
    return sum(type(module).__module__.startswith(kinds) for module in model.modules())


def check_quantized(model: Any, scheme: Scheme) -> None:
    """Refuse a base that was to be quantized and is not.

    Raises:
        ModelError: when no module holds quantized weights.
    """
    if scheme is not Scheme.none and not quantized_modules(model):
        raise ModelError(f"quantization={scheme}", "no module of this model was quantized.", "Take quantization=none.")
