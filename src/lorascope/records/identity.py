"""Run ids, and fingerprints of what two runs must share to be compared."""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import Any

from lorascope.config.machine import numerics
from lorascope.config.schema import RunConfig, as_dict
from lorascope.records.environment import redact

# settings that change what is printed or where it is stored, not what is trained
ELSEWHERE = ("logger", "runs_dir", "dry_run", "overwrite", "resume", "execution", "study")


def identity(config: RunConfig) -> dict[str, Any]:
    """The settings of a resolved config that decide the result and are not the schema's defaults.

    A setting that a later version adds has a default that means what was done before, so old runs keep their names;
    hence no default of the schema may ever change its meaning.
    """
    settings = {key: value for key, value in as_dict(config).items() if key not in ELSEWHERE}
    del settings["model"]["learning_rate"]  # a preset's suggestion; train.learning_rate is what counts
    del settings["model"]["hub_id"]  # a name for others
    settings["target"]["name"] = _choice(config)
    for key in ("save_steps", "save_minutes", "keep_best", "eval_metrics", "eval_share"):
        del settings["train"][key]
    del settings["evaluation"]["every_label"]  # the likeliest label is the same
    if not config.train.stop_early.metric:  # then the sample decides nothing
        for key in ("eval_samples", "stop_early"):
            del settings["train"][key]
    force = {"environment": dict(numerics())} if numerics() else {}
    return _changed(settings, as_dict(RunConfig())) | force


def _changed(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The values that differ from the defaults, at any depth."""
    changed = {}
    for key, value in values.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            value, default = _changed(value, default), {}
        if value != default:
            changed[key] = value
    return changed


def run_hash(config: RunConfig) -> str:
    """SHA-256 of the identity, 64 hex digits."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()


def run_id(config: RunConfig) -> str:
    """The run's short name: 8 hex digits of its hash."""
    return run_hash(config)[:8]


def _choice(config: RunConfig) -> str | None:
    """The strategy's name without the changes that compose adds to it (`q_v+k=8`), which the settings say too."""
    name = config.target.name
    return name and re.sub(r"(\+\w+=[^+]*)+$", "", name)


def run_name(config: RunConfig) -> str:
    """The name of the run's folder: target, model, dataset, seed and id.

    A folder that an earlier version named by the choice alone keeps its name.
    """
    rest = (config.model.name, config.dataset.name, f"s{config.seed}", run_id(config))
    now, before = (
        "-".join(re.sub(r"[^\w.+=]", "_", str(redact(name))) for name in (target, *rest))
        for target in (config.target.name, _choice(config))
    )
    return before if os.path.isdir(os.path.join(os.path.expanduser(config.runs_dir), before)) else now


def fingerprint(
    config: RunConfig, data: dict[str, Any], revision: str, quantized_modules: int, attention: str | None = None
) -> dict[str, Any]:
    """What two runs must share to be compared, and one hash over it: not the seed, not the strategy.

    Args:
        data: the record's `data`.
        quantized_modules: how many of its linear modules have quantized weights.
        attention: what the model computes with, where that is known to be other than was asked for.
    """
    parts = {
        "model": config.model.path or config.model.package,
        "revision": config.model.content or revision,
        "quantization": str(config.quantization.scheme),
        "double_quant": config.quantization.double_quant,
        "quantized_modules": quantized_modules,
        "dtype": str(config.model.dtype),
        "adapter_dtype": "float32",
        "attention": attention or str(config.model.attention),
        "device": str(config.device),
        "max_length": config.train.max_length,
        "packing": config.train.packing,
        "train_data": data["train"]["hash"],
        "eval_data": data["eval"]["hash"],
        **{f"{name}_data": one["hash"] for name, one in data.get("sets", {}).items()},
        **{f"{name}_tokens": data[name]["tokens_hash"] for name in ("train", "eval") if "tokens_hash" in data[name]},
        "train_supervised_tokens": data["train"]["supervised_tokens"],
        "eval_supervised_tokens": data["eval"]["supervised_tokens"],
    }
    if early := config.train.stop_early.metric:
        parts["stop_early"] = f"{early}, patience {config.train.stop_early.patience}"
    if numerics():
        parts["environment"] = " ".join(f"{name}={value}" for name, value in numerics().items())
    return parts | {"hash": hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]}
