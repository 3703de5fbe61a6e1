"""What two runs must share to be compared: data, base, number formats and kernels; not the seed, not the strategy."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from lorascope.config import RunConfig


def fingerprint(config: RunConfig, data: dict[str, Any], revision: str, quantized_modules: int) -> dict[str, Any]:
    """The parts by name, and one hash over them.

    Args:
        config: resolved.
        data: the record's `data`.
        revision: of the base that was loaded.
        quantized_modules: linear modules of it that hold quantized weights.
    """
    parts = {
        "model": config.model.path or config.model.package,
        "revision": revision,
        "quantization": str(config.quantization.scheme),
        "double_quant": config.quantization.double_quant,
        "quantized_modules": quantized_modules,
        "dtype": str(config.model.dtype),
        "adapter_dtype": "float32",
        "attention": str(config.model.attention),
        "device": str(config.device),
        "max_length": config.train.max_length,
        "packing": config.train.packing,
        "train_data": data["train"]["hash"],
        "eval_data": data["eval"]["hash"],
        **{f"{name}_data": one["hash"] for name, one in data.get("sets", {}).items()},
        "train_supervised_tokens": data["train"]["supervised_tokens"],
        "eval_supervised_tokens": data["eval"]["supervised_tokens"],
    }
    return parts | {"hash": hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]}
