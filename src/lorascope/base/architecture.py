"""A model's architecture without its weights: from a preset, a local folder or the hub."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lorascope.base.hub import first_line, from_hub
from lorascope.config.schema import ModelConfig
from lorascope.config.validation import is_local
from lorascope.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


MOST_LAYERS = 10_000  # ten times what was ever tried; building a million takes an hour
SIZES = "Look at the sizes, heads and names in config.json, or in model.architecture."


def load_architecture(model: ModelConfig) -> tuple[PretrainedConfig, str]:
    """The model's transformers config, and where it was read.

    Raises:
        ModelError: when there is none, or transformers does not know its type.
    """
    from transformers import AutoConfig

    if model.architecture:
        try:
            return _from_settings(model), "the preset, hub not asked"
        except Exception as error:
            kind, problem = model.architecture.get("model_type", ""), first_line(error).partition(". Should")[0]
            what = f"transformers cannot build a '{kind}' from it: {problem.rstrip('.')}."
            raise ModelError("model.architecture", what, "Mend the model's YAML.") from error
    if not model.path:
        what = "is missing: the plan of a packaged model is made from it."
        raise ModelError("model.architecture", what, "Write it into the model's YAML, as conf/model/smollm2.yaml does.")
    origin = model.path if is_local(model.path) else f"the hub, {model.path}"
    return from_hub(AutoConfig.from_pretrained, model), origin


def _from_settings(model: ModelConfig) -> PretrainedConfig:
    from transformers import AutoConfig

    settings = {name: value for name, value in model.architecture.items() if name != "model_type"}
    return AutoConfig.for_model(str(model.architecture.get("model_type", "")), **settings)


def model_class(config: PretrainedConfig) -> Any:
    """The auto class of transformers that builds a language model of this config.

    Types that also see have no causal class of their own: they are fine-tuned on text as a whole.
    """
    import transformers

    if type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return transformers.AutoModelForCausalLM
    seeing = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return transformers.AutoModelForImageTextToText if seeing else transformers.AutoModelForCausalLM


def build_on_meta(config: PretrainedConfig, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model's modules with shapes but no weights.

    Raises:
        ModelError: when transformers has no causal language model for this config.
    """
    import torch

    place = f"model type '{config.model_type}'"
    layers = getattr(config, "num_hidden_layers", 1)
    if isinstance(layers, int) and not 1 <= layers <= MOST_LAYERS:
        raise ModelError(place, f"cannot be built with {layers} layers as its config says.", SIZES)
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            model = model_class(config).from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever a model's code raises for sizes that it cannot have
        if "Unrecognized configuration class" in str(error):
            what = "transformers has no causal language model of this type."
            raise ModelError(place, what, "lorascope fine-tunes causal language models.") from error
        what = f"{type(error).__name__}: {first_line(error)}".rstrip(".")
        raise ModelError(place, f"cannot be built as its config says: {what}.", SIZES) from error
    if empty := [name for name, parameter in model.named_parameters() if not parameter.numel()]:
        raise ModelError(place, f"{empty[0]} has no values as its config says.", SIZES)
    return model


def architecture_notes(loaded: PretrainedConfig, model: ModelConfig) -> list[str]:
    """Where the loaded model's own config differs from the preset's, a line each."""
    if model.architecture.get("model_type") is None:
        return []
    # defaults that both leave out are the same by name; gpt2's n_embd is hidden_size to those who ask
    return _differences(loaded, _from_settings(model), model.architecture)


def _differences(loaded: Any, preset: Any, named: Mapping[str, Any], place: str = "") -> list[str]:
    """Those settings of the preset that the loaded config has otherwise, the nested configs' too."""
    notes = []
    for name, value in named.items():
        one, other = getattr(loaded, name, None), getattr(preset, name, None)
        if isinstance(value, Mapping):
            notes += _differences(one, other, value, f"{place}{name}.")
        elif one != other:
            notes.append(f"{place}{name} of the loaded model is {one}, the preset says {other}")
    return notes
