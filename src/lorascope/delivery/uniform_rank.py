"""An adapter with one rank and one scale for all modules, for engines that keep one of each."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.delivery.merging import scale_and_rank, split_key
from lorascope.errors import RunError

if TYPE_CHECKING:
    import torch

FOLDERS = ("peft", "vllm")  # engines that read PEFT's folder
MERGE = "Merge it instead: lorascope merge RUN"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# what vLLM's LoRA layers do not have
NOT_IN_VLLM = ("lm_head", "embed_tokens", "wte", "embed_in", "embed_out")


def export(adapter: Path, out: Path, engine: str, base: str) -> dict[str, Any]:
    """Write the adapter as PEFT's folder, with the same rank and alpha for every module.

    Args:
        adapter: a folder with PEFT's adapter.
        out: is complete afterwards, or absent.
        engine: one of `FOLDERS`.
        base: what the file calls its base; never a path of this machine.

    Returns:
        What `uniform` says.

    Raises:
        RunError: when `out` is there, or the engine cannot load what the adapter has.
    """
    from safetensors.torch import save_file

    check_absent(out)
    config, tensors, report = uniform(adapter, engine)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as aside:
        folder = Path(aside, "adapter")
        folder.mkdir()
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        written = config | {"base_model_name_or_path": base}
        (folder / CONFIG).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
        os.rename(folder, out)
    return report


def check_absent(out: Path) -> None:
    """Raise a RunError where something is in the way."""
    if out.exists():
        raise RunError(str(out), "is there already.", "Remove it, or name another folder.")


def uniform(adapter: Path, engine: str) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, Any]]:
    """The adapter with the same rank and alpha for every module; what it computes stays the same.

    Shorter factors are filled up with zeros, and each module's scale goes into its B, so that alpha / r is 1.

    Args:
        adapter: a folder with PEFT's adapter.
        engine: who is to load it.

    Returns:
        PEFT's config; the tensors under PEFT's names; and `modules`, `rank`, and the `ranks` that there were,
        JSON-ready.

    Raises:
        RunError: when the engine cannot load what the adapter has.
    """
    import torch
    from safetensors.torch import load_file

    config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    state = load_file(adapter / WEIGHTS)
    _check(config, state, engine)
    modules = sorted({split_key(key)[0] for key in state if "lora_" in key})
    known = {module: scale_and_rank(config, module) for module in modules}
    rank = max(own for _, own in known.values())
    tensors: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        module, ending = split_key(key)
        if ending == "bias":
            tensors[key] = value
            continue
        is_b = ending in ("lora_B.weight", "lora_embedding_B")
        shape = (value.shape[0], rank) if is_b else (rank, value.shape[1])
        filled = torch.zeros(shape, dtype=value.dtype)
        filled[: value.shape[0], : value.shape[1]] = value * known[module][0] if is_b else value
        tensors[key] = filled
    same = {"r": rank, "lora_alpha": rank, "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False}
    plain = {"init_lora_weights": True, "eva_config": None, "inference_mode": True}
    report = {"modules": len(modules), "rank": rank, "ranks": sorted({own for _, own in known.values()})}
    return config | same | plain, tensors, report


def _check(config: Mapping[str, Any], state: Mapping[str, Any], engine: str) -> None:
    """Raise a RunError for what an engine cannot load, or what another rank would change."""
    place = f"--for {engine}"
    if config.get("use_dora"):
        raise RunError(place, "has no place for DoRA's magnitudes, which depend on the base's weights.", MERGE)
    if config.get("target_parameters"):
        raise RunError(place, "has no adapters on experts that are one parameter.", MERGE)
    if config.get("init_lora_weights") not in (True, "eva", "gaussian", None):
        what = f"needs the base as it was; init={config['init_lora_weights']} has moved a part of it into the adapter."
        raise RunError(place, what, MERGE)
    if engine == "peft":
        return
    if biases := [key for key in state if key.endswith(".bias")]:
        raise RunError(place, f"has no trained biases ({split_key(biases[0])[0]}).", MERGE)
    ends = [key for key in state if engine == "vllm" and split_key(key)[0].rpartition(".")[2] in NOT_IN_VLLM]
    if ends:
        raise RunError(place, f"has no adapter on {split_key(ends[0])[0]}.", MERGE)
