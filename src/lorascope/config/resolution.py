"""Settings that the machine or TRL decides: every `auto`, and the names under `train.sft`."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import typing
from types import NoneType, UnionType
from typing import Any

from lorascope.config.schema import Device, Dtype, RunConfig, Scheme, TrainConfig
from lorascope.errors import ConfigError


def resolve(config: RunConfig, device: Device | None = None) -> RunConfig:
    """The config with every `auto` decided, so that it names one experiment.

    Args:
        config: as it was composed.
        device: decide as on this one; by default the config's. CUDA need not be there: a plan is made for it all the
            same.

    Raises:
        ConfigError: when a device is asked for that is not there.
    """
    assumed = device is Device.cuda
    device = Device.cuda if assumed else _device(device or config.device)
    scheme = config.quantization.scheme
    if scheme is Scheme.auto:
        scheme = Scheme.nf4 if device is Device.cuda else Scheme.none
    if device is Device.mps and scheme is not Scheme.none:
        raise ConfigError(
            f"quantization={scheme}", "bitsandbytes has no kernels for MPS.", "Take quantization=none or device=cpu."
        )
    dtype = config.model.dtype
    if dtype is Dtype.auto:
        dtype = Dtype.bfloat16 if assumed or _computes_in_bfloat16(device) else Dtype.float32
    return dataclasses.replace(
        config,
        device=device,
        model=dataclasses.replace(config.model, dtype=dtype),
        quantization=dataclasses.replace(
            config.quantization, scheme=scheme, double_quant=config.quantization.double_quant and scheme is Scheme.nf4
        ),
    )


def optimizer(config: RunConfig) -> str:
    """The optimizer as transformers' `optim` names it, unless `train.sft.optim` names another; `config` is resolved."""
    quantized_on_cuda = config.device is Device.cuda and config.quantization.scheme is not Scheme.none
    return str(config.train.sft.get("optim") or ("paged_adamw_8bit" if quantized_on_cuda else "adamw_torch"))


def _device(wanted: Device) -> Device:
    import torch

    there = [Device.cpu]
    if torch.backends.mps.is_available():
        there.insert(0, Device.mps)
    if torch.cuda.is_available():
        there.insert(0, Device.cuda)
    if wanted is Device.auto:
        return there[0]
    if wanted not in there:
        raise ConfigError(
            f"device={wanted}", f"torch {torch.__version__} finds no such device.", f"Here: {', '.join(there)}."
        )
    return wanted


def _computes_in_bfloat16(device: Device) -> bool:
    """Whether bfloat16 products are done by the hardware: 1.6 times faster than float32 on a CPU that has them."""
    import torch

    if device is Device.cuda:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device is Device.mps:
        return True
    return torch.backends.mkldnn.is_available() and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


# SFTConfig's name -> the setting here that decides it
ELSEWHERE = {
    "learning_rate": "train.learning_rate",
    "num_train_epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "per_device_train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.gradient_accumulation",
    "max_length": "train.max_length",
    "packing": "train.packing",
    "warmup_steps": "train.warmup_ratio",
    "lr_scheduler_type": "train.scheduler",
    "eval_steps": "train.eval_steps",
    "eval_strategy": "train.eval_steps",
    "save_steps": "train.save_steps",
    "save_strategy": "train.save_steps",
    "logging_steps": "train.logging_steps",
    "logging_strategy": "train.logging_steps",
    "seed": "seed",
    "data_seed": "seed",
    "output_dir": "runs_dir",
    "report_to": "logger",
    "run_name": "logger",
    "project": "logger.wandb.project",
    "use_cpu": "device",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "trust_remote_code": "model",
    "model_init_kwargs": "model",
    "gradient_checkpointing": "train.sft.activation_checkpointing",
    "gradient_checkpointing_kwargs": "train.sft.activation_checkpointing_kwargs",
}
SAMPLING, GROUPED = "train_sampling_strategy", "group_by_length"  # SFTConfig's; its other values stay the user's
# these would send the run away, or put a token into its record
HUB = ("push_to_hub", "hub_")
PLAIN = {bool, int, float, str, dict, list, NoneType}  # other kinds are left to SFTConfig


@functools.cache
def sft_fields() -> dict[str, Any]:
    """SFTConfig's fields and their types."""
    from lorascope.console import hush

    hush()
    from trl import SFTConfig

    return {field.name: field.type for field in dataclasses.fields(SFTConfig)}


def check_sft(train: TrainConfig) -> None:
    """Refuse a name that SFTConfig lacks, a value of another kind, a setting made elsewhere, and the hub's.

    Raises:
        ConfigError: for the first of these.
    """
    for name, value in train.sft.items():
        key = f"train.sft.{name}"
        if name in ELSEWHERE:
            raise ConfigError(key, "would make one setting in two places.", f"Set {ELSEWHERE[name]} instead.")
        if name.startswith(HUB):
            raise ConfigError(
                key,
                "is not taken: a run stays on this machine, and its record must hold no token.",
                "Set HF_TOKEN in the environment; send the adapter's folder later with: hf upload",
            )
        if name == "packing_strategy" and value == "wrapped":
            raise ConfigError(key, "cuts rows in two, which then see other rows.", "Leave it out: train.packing=true")
        if name == SAMPLING and (value == GROUPED or train.group_by_length):
            raise ConfigError(key, "would make one setting in two places.", "Set train.group_by_length instead.")
        if name not in sft_fields():
            near = difflib.get_close_matches(name, sft_fields(), n=1)
            hint = f"Did you mean train.sft.{near[0]}?" if near else "Its names are those of TRL's SFTConfig."
            hint = f"Did you mean train.{name}?" if hasattr(train, name) else hint
            raise ConfigError(key, f"SFTConfig has no '{name}'.", hint)
        kind = sft_fields()[name]
        if not _fits(value, kind):
            said = kind.__name__ if isinstance(kind, type) else kind
            raise ConfigError(key, f"{value!r} is not what SFTConfig takes.", f"It takes: {said}.")


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a plain value fits an annotation of plain kinds."""
    union = typing.get_origin(annotation) in (typing.Union, UnionType)
    kinds = {typing.get_origin(one) or one for one in (typing.get_args(annotation) if union else (annotation,))}
    if not kinds <= PLAIN or (isinstance(value, int) and not isinstance(value, bool) and float in kinds):
        return True
    return type(value) in kinds and not (isinstance(value, float) and not math.isfinite(value))
