"""What the machine decides: every `auto`, and environment variables that would change a run unseen."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import replace

from lorascope.config.schema import Device, Dtype, RunConfig, Scheme
from lorascope.errors import ConfigError


def resolve(config: RunConfig, device: Device | None = None) -> RunConfig:
    """The config with every `auto` decided, so that it names one experiment: on `device`, by default the config's.

    Raises:
        ConfigError: when the device is not there; `device` may be CUDA all the same, for a plan.
    """
    assumed = device is Device.cuda
    device = Device.cuda if assumed else _device(device or config.device)
    scheme = config.quantization.scheme
    if scheme is Scheme.auto:
        scheme = Scheme.nf4 if device is Device.cuda else Scheme.none
    if device is Device.mps and scheme is not Scheme.none:
        remedy = "Take quantization=none or device=cpu."
        raise ConfigError(f"quantization={scheme}", "bitsandbytes has no kernels for MPS.", remedy)
    dtype = config.model.dtype
    if dtype is Dtype.auto:
        dtype = Dtype.bfloat16 if assumed or _computes_in_bfloat16(device) else Dtype.float32
    model = replace(config.model, dtype=dtype)
    double_quant = config.quantization.double_quant and scheme is Scheme.nf4
    quantization = replace(config.quantization, scheme=scheme, double_quant=double_quant)
    return replace(config, device=device, model=model, quantization=quantization)


def optimizer(config: RunConfig) -> str:
    """The optimizer as transformers' `optim` names it, unless `train.sft.optim` names another; `config` is resolved."""
    quantized_on_cuda = config.device is Device.cuda and config.quantization.scheme is not Scheme.none
    return str(config.train.sft.get("optim") or ("paged_adamw_8bit" if quantized_on_cuda else "adamw_torch"))


def _device(wanted: Device) -> Device:
    import torch

    found = {Device.cuda: torch.cuda.is_available(), Device.mps: torch.backends.mps.is_available(), Device.cpu: True}
    there = [one for one, is_there in found.items() if is_there]
    if wanted is Device.auto:
        return there[0]
    if wanted not in there:
        what = f"torch {torch.__version__} finds no such device."
        raise ConfigError(f"device={wanted}", what, f"Here: {', '.join(there)}.")
    return wanted


def _computes_in_bfloat16(device: Device) -> bool:
    """Whether bfloat16 products are done by the hardware: 1.6 times faster than float32 on a CPU that has them."""
    import torch

    if device is Device.cuda:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device is Device.mps:
        return True
    return torch.backends.mkldnn.is_available() and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
PLACES = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
# what accelerate's launcher hands over to its processes, and where the same is set here
LAUNCHER = re.compile(r"(ACCELERATE|FSDP|PARALLELISM_CONFIG|MEGATRON_LM)_\w+|XLA_(USE|DOWNCAST)_BF16|USE_TORCH_XLA")
HARMLESS = ("ACCELERATE_LOG_LEVEL", "ACCELERATE_DEBUG_MODE", "ACCELERATE_ENABLE_RICH", "ACCELERATE_CPU_AFFINITY")
SETTINGS = {
    "ACCELERATE_MIXED_PRECISION": "model.dtype", "ACCELERATE_USE_CPU": "device", "ACCELERATE_TORCH_DEVICE": "device",
    "ACCELERATE_DOWNCAST_BF16": "model.dtype", "ACCELERATE_DYNAMO_BACKEND": "train.sft.torch_compile_backend",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "train.gradient_accumulation",
    "ACCELERATE_GRADIENT_CLIPPING": "train.sft.max_grad_norm",
}  # fmt: skip
# how torch and its libraries compute: other values, other last digits or more
NUMERICS = (
    "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "DNNL_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA",
    "FLASH_ATTENTION_DETERMINISTIC", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TRANSFORMERS_DISABLE_DEEPGEMM_LINEAR", "TRANSFORMERS_SDPA_FORCE_GQA", "TRITON_F32_DEFAULT", "USE_HUB_KERNELS",
)  # fmt: skip


def check_variables(variables: MutableMapping[str, str] = os.environ) -> None:
    """Refuse what would make many processes of one run, or change its training; forget a launcher of one process."""
    for name in SIZES:
        size = variables.get(name, "").strip()
        if size not in ("", "0", "1"):
            names = " ".join(dict.fromkeys(one for one in (name, *PLACES) if one in variables))
            what = "asks for several processes; a run is one process."
            raise ConfigError(f"{name}={size}", what, f"Start it without a launcher: unset {names}")
    for name in PLACES:  # else torch waits for others that never come
        variables.pop(name, None)
    for name in sorted(variables):
        value = variables[name].strip()
        if LAUNCHER.fullmatch(name) and name not in HARMLESS and _asks(name, value):
            setting = f" and set {SETTINGS[name]}" if name in SETTINGS else ""
            raise ConfigError(f"{name}={value}", "would change the training unseen.", f"unset {name}{setting}")


def _asks(name: str, value: str) -> bool:
    """Whether a launcher's variable asks for anything: a 1 does where it is a switch."""
    if name == "ACCELERATE_GRADIENT_ACCUMULATION_STEPS":
        return value not in ("", "1")
    off = value.lower() in ("", "0", "no", "none", "false", "off")
    return not off and not (value == "1" and name.endswith(("_PROCESSES", "_SIZE")))


@functools.cache
def numerics() -> Mapping[str, str]:
    """The variables in force that change how torch computes, before libraries set some by the settings of a run."""
    return numerics_of(os.environ)


def numerics_of(variables: Mapping[str, str]) -> dict[str, str]:
    """Those of `variables` that change how torch computes."""
    return {name: variables[name].strip() for name in NUMERICS if variables.get(name, "").strip()}
