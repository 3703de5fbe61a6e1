"""How a checkpoint is stored: in which quantization, and with which head."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lorascope.base.architecture import load_architecture, model_class
from lorascope.base.hub import from_hub
from lorascope.base.packaged import cache_dir, complete_folder
from lorascope.config.schema import Init, ModelConfig, RunConfig, Scheme
from lorascope.config.validation import is_local
from lorascope.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# storages that transformers can write out in full -> the class that asks it to
DEQUANTIZED = {"fp8": "FineGrainedFP8Config", "mxfp4": "Mxfp4Config"}
NO_HEAD = re.compile(r"For(Sequence|Token|Image|Audio|Multiple)\w*(Classification|Choice)|ForQuestionAnswering")


def storage(config: PretrainedConfig) -> Mapping[str, Any]:
    """What a config says of the quantization of its weights; empty where they are stored in full."""
    found: Any = getattr(config, "quantization_config", None)
    found = found.to_dict() if hasattr(found, "to_dict") else found
    return found if isinstance(found, Mapping) else {}


def method_of(config: PretrainedConfig) -> str:
    """The method of the weights' quantization, as transformers names it; empty where there is none."""
    stored = storage(config)
    bits = stored.get("load_in_4bit") or stored.get("load_in_8bit")
    return str(stored.get("quant_method") or ("bitsandbytes" if bits else "")).lower().removesuffix("_4bit")


def stored_scheme(config: PretrainedConfig) -> Scheme | None:
    """The scheme of weights that bitsandbytes has quantized; None for all others."""
    if not method_of(config).startswith("bitsandbytes"):
        return None
    return Scheme.int8 if storage(config).get("load_in_8bit") else Scheme.nf4


def check_checkpoint(config: PretrainedConfig, place: str) -> None:
    """Refuse weights that no adapter can be trained on here, and models without a language model's head.

    Raises:
        ModelError: naming the method or the class, and the remedy.
    """
    architectures = getattr(config, "architectures", None)
    architectures = [str(one) for one in architectures] if isinstance(architectures, list) else []
    if architectures and all(NO_HEAD.search(one) for one in architectures):
        what = f"holds a {architectures[0]}, which has a score head and no lm_head."
        raise ModelError(place, what, "Name the language model that it was made from.")
    method, kind = method_of(config), storage(config).get("bnb_4bit_quant_type", "nf4")
    if method and not method.startswith("bitsandbytes") and method not in DEQUANTIZED:
        raise ModelError(
            place,
            f"its weights are quantized by {method}, on which no adapter is trained here.",
            "Name the checkpoint in full precision that it was made from, with quantization=nf4.",
        )
    if stored_scheme(config) is Scheme.nf4 and kind != "nf4":
        what = f"its weights are in bitsandbytes' {kind}, and runs compare NF4."
        raise ModelError(place, what, "Name the checkpoint in full precision, with quantization=nf4.")


def with_stored_scheme(config: RunConfig) -> RunConfig:
    """The config with the quantization that the weights are stored in, where bitsandbytes has quantized them.

    Raises:
        ConfigError: when another quantization is asked for, or a start that needs the weights in full.
    """
    model = config.model
    if model.package or not model.path or (model.architecture and not is_local(model.path)):
        return config  # presets of the hub are in full precision; another path is looked at when it is loaded
    try:
        loaded = load_architecture(dataclasses.replace(model, architecture={}))[0]
    except ModelError:
        return config  # the plan says what is wrong with it
    scheme = stored_scheme(loaded)
    if scheme is None:
        return config
    if config.quantization.scheme is not Scheme.auto:
        check_scheme(config, loaded)
    if config.target.init is Init.loftq:
        what = f"needs weights in full precision, and those of {model.path} are stored in {scheme}."
        raise ConfigError("target.init=loftq", what, "Take target.init=lora.")
    double = scheme is Scheme.nf4 and bool(storage(loaded).get("bnb_4bit_use_double_quant"))
    quantization = dataclasses.replace(config.quantization, scheme=scheme, double_quant=double)
    return dataclasses.replace(config, quantization=quantization)


def check_scheme(config: RunConfig, loaded: PretrainedConfig) -> None:
    """Raise a ConfigError where weights are stored in another quantization than the one that is asked for."""
    scheme, asked = stored_scheme(loaded), config.quantization.scheme
    if scheme is not None and asked is not scheme:
        what = f"cannot be had of {config.model.path}: its weights are stored in {scheme}."
        raise ConfigError(f"quantization={asked}", what, f"Take quantization={scheme}.")


def in_full(
    model: ModelConfig, config: PretrainedConfig, dtype: Any, *, to_disk: bool
) -> tuple[ModelConfig, dict[str, Any]]:
    """Weights in FP8 or MXFP4 as transformers writes them out in full.

    Args:
        to_disk: write them into the cache, since they are to be quantized otherwise.

    Returns:
        The model to load, and further arguments of `from_pretrained`.
    """
    import transformers

    method = method_of(config)
    if method not in DEQUANTIZED:
        return model, {}
    settings = {"quantization_config": getattr(transformers, DEQUANTIZED[method])(dequantize=True)}
    if not to_disk:
        return model, settings
    key = hashlib.sha256(f"{model.path}\n{model.revision}\n{model.content}\n{dtype}".encode()).hexdigest()[:16]
    folder = cache_dir() / "in_full" / key
    if not folder.is_dir():
        loaded = from_hub(model_class(config).from_pretrained, model, dtype=dtype, **settings)
        with complete_folder(folder) as aside:
            loaded.save_pretrained(aside, save_original_format=False)  # which would be FP8 again
            from_hub(transformers.AutoTokenizer.from_pretrained, model).save_pretrained(aside)
    return dataclasses.replace(model, path=str(folder)), {}
