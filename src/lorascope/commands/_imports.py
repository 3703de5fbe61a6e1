"""What `lorascope doctor` looks at in processes of their own: packages that compute, the GPU, and the hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from lorascope.commands._checks import Check, Checks, package, required, safely, size
from lorascope.config import RunConfig

HUB_SECONDS = 5
MARK = "lorascope-doctor:"
NEEDED = {"hydra-core", "omegaconf", "rich", "safetensors"}  # also where lorascope's own metadata cannot be read
# imported in this order, each before those that import it, so that its own line tells of its errors
HEAVY = ("transformers", "accelerate", "datasets", "peft", "trl")


def imported() -> Checks:
    """torch and its device, bitsandbytes, and every other package that lorascope requires."""
    others = sorted({*NEEDED, *required()} - {"torch", "bitsandbytes", *HEAVY})
    return [
        ("torch", lambda: package("torch", trial=_auto)),
        ("device", device),
        ("bitsandbytes", bitsandbytes),
        *((name, partial(package, name)) for name in (*HEAVY, *others)),
    ]


def _auto() -> str:
    """What `auto` means here."""
    import torch

    from lorascope.models.device import resolve

    config = resolve(RunConfig())
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    chosen = f"device={config.device}, {config.model.dtype}, quantization={config.quantization.scheme}"
    return f", {build}; auto is {chosen}"


def device() -> Check:
    """The GPU and its memory, or why there is none."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        many = f", the first of {torch.cuda.device_count()}" if torch.cuda.device_count() > 1 else ""
        found = f"{torch.cuda.get_device_name()}{many}, {size(free)} free of {size(total)}"
        if free < total / 2:
            return Check("device", "note", found, "Another process holds the rest: nvidia-smi names it.")
        return Check("device", "ok", found)
    if torch.backends.mps.is_available():
        return Check("device", "ok", "Apple GPU (MPS)")
    there = Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
    if there and not torch.version.cuda:
        remedy = "Install one with CUDA: make setup TORCH=…"
        return Check("device", "note", "an NVIDIA GPU is here, but this torch is built without CUDA", remedy)
    if there:
        found = f"an NVIDIA GPU is here, but torch, built for CUDA {torch.version.cuda}, cannot use it"
        return Check("device", "note", found, "Look with nvidia-smi: the driver may be too old for this build.")
    remedy = "Enough for the embedded model; a model of 7B needs a CUDA GPU."
    return Check("device", "note", f"no GPU; {torch.get_num_threads()} CPU threads", remedy)


def bitsandbytes() -> Check:
    """bitsandbytes; on CUDA no run works without, since there quantization=auto is nf4."""
    import torch

    return package("bitsandbytes", prevents=torch.cuda.is_available(), trial=_nf4_and_back)


def _nf4_and_back() -> str:
    """A small matrix through nf4 on the device that runs would use.

    Raises:
        ArithmeticError: when it does not come back.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    place = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.linspace(-1, 1, 4096, device=place).reshape(64, 64)
    packed, state = quantize_4bit(matrix, blocksize=64, quant_type="nf4")
    error = (dequantize_4bit(packed, state) - matrix).abs().max().item()
    if not error < 0.16:  # the widest gap between two nf4 levels is 0.304 of a block's largest value
        raise ArithmeticError(f"nf4 and back on {place} is off by {error:.2f}")
    return f", nf4 and back on {place} works"


# the hub


def hub() -> Checks:
    """The Hugging Face hub."""
    return [("hub", hub_answers)]


def hub_answers() -> Check:
    """Whether the hub answers one question, and whether a token is set; neither is needed by the embedded model."""
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError

    token = "a token is set" if get_token() else "no token is set (gated models need HF_TOKEN)"
    if constants.HF_HUB_OFFLINE:
        return Check("hub", "note", f"offline, HF_HUB_OFFLINE says so; {token}", "Unset it to download models.")
    try:
        HfApi().model_info("openai-community/gpt2", timeout=HUB_SECONDS)
    except HfHubHTTPError as error:
        code = getattr(error.response, "status_code", "?")
        remedy = "Log in again: hf auth login" if code == 401 else "Try later; the embedded model needs no hub."
        return Check("hub", "note", f"answers with an error, {code}; {token}", remedy)
    except Exception as error:  # its text is not shown: it may hold a proxy's password
        remedy = "Connect once to download a model; the embedded one needs no hub. A mirror: HF_ENDPOINT=URL"
        return Check("hub", "note", f"cannot be reached ({type(error).__name__}); {token}", remedy)
    return Check("hub", "ok", f"reachable, {token}")


# in a process of their own

GROUPS: dict[str, Callable[[], Checks]] = {"packages": imported, "hub": hub}


def tell(group: str) -> None:
    """Print the name of each check of a group before it, and its result after it, as lines for `doctor` to read."""
    for name, check in GROUPS[group]():
        print(f"\n{MARK}{json.dumps({'begin': name})}", flush=True)
        print(f"\n{MARK}{json.dumps(asdict(safely(name, check)))}", flush=True)
