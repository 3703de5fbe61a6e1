"""The checks of `lorascope doctor`."""

from __future__ import annotations

import functools
import importlib
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path
from typing import Any, Literal

from lorascope.config.schema import ModelConfig, RunConfig
from lorascope.errors import ModelError
from lorascope.records.environment import redact

GIB = 2**30
SLOW = 15  # seconds that an import may take unremarked
HUB_SECONDS = 5
MARK = "lorascope-doctor:"
REINSTALL = "Run: make setup"
# python train.py does without these, on a CPU
WITHOUT = ("bitsandbytes", "wandb", "matplotlib", "hub", "memory", "hub cache", "W&B")
EMBEDDED = {"gguf", "hassil", "home-assistant-intents"}  # of model=smollm2 dataset=home_intents
# imported last, each before those that import it; some import their parts only when these are fetched
PARTS = {"transformers": "AutoModelForCausalLM", "accelerate": "Accelerator", "peft": "LoraConfig", "trl": "SFTTrainer"}


@dataclass(frozen=True)
class Check:
    """One line of the doctor's."""

    name: str
    state: Literal["ok", "note", "problem"]
    found: str
    remedy: str = ""
    prevents: bool = False  # python train.py cannot work


Checks = list[tuple[str, Callable[[], Check]]]


def safely(name: str, check: Callable[[], Check]) -> Check:
    """The check's result; whatever it raises is a problem with the error's first line, and no secret in it."""
    try:
        found = check()
    except (Exception, SystemExit) as error:
        found = Check(name, "problem", said(error), REINSTALL, prevents=name not in WITHOUT)
    return Check(**redact(asdict(found)))


def said(error: BaseException) -> str:
    """An error's type and first line."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def quick() -> Checks:
    """The checks that import nothing heavy."""
    try:
        from lorascope.compose import compose

        config, composes = compose(), Check("config", "ok", "python train.py composes")
    except (Exception, SystemExit) as error:
        config, composes = RunConfig(), Check("config", "problem", said(error), REINSTALL, prevents=True)
    needed = EMBEDDED - ({"gguf"} if _is_unpacked(config.model) else set())
    packages = sorted(EMBEDDED | {name for name, one in required().items() if "embedded" in str(one.marker)})
    return [
        ("python", lambda: Check("python", "ok", f"{platform.python_version()}, {platform.platform(terse=True)}")),
        ("memory", memory),
        ("config", lambda: composes),
        ("runs folder", lambda: runs_folder(config)),
        ("cache folder", lambda: cache_folder(config.model)),
        ("embedded model", lambda: embedded_model(config.model)),
        *((name, partial(package, name, prevents=name in needed)) for name in packages),
        ("W&B", lambda: wandb(config.logger.wandb.mode)),
    ]


def heavy() -> Checks:
    """The checks that import what is heavy, or ask the hub."""
    others = sorted({name for name, one in required().items() if not one.marker} - {"torch", "bitsandbytes", *PARTS})
    first: Checks = [("hub", hub_answers), ("hub cache", hub_cache), ("torch", torch), ("device", device)]
    return [*first, ("bitsandbytes", bitsandbytes), *((name, partial(package, name)) for name in (*others, *PARTS))]


def tell() -> None:
    """Make the heavy checks; print each one's name before it and its result after it, as lines for `doctor` to read."""
    for name, check in heavy():
        print(f"\n{MARK}{json.dumps({'begin': name})}", flush=True)
        print(f"\n{MARK}{json.dumps(asdict(safely(name, check)))}", flush=True)


# memory, folders, the embedded model


def memory() -> Check:
    """Memory that a run could have: the machine's, or less where a container or a batch job has a limit."""
    from lorascope.records.environment import machine_memory

    total, free = machine_memory()
    found = f"{_size(free)} free of {_size(total)}" if total else "could not be read."
    if free < 3 * GIB:  # python train.py peaks at 1.8 GiB on a CPU; the rest is room for unpacking the model
        return Check("memory", "note", found, "A run needs 3 GiB. End other programs, or take train.batch_size=2.")
    return Check("memory", "ok", found)


def runs_folder(config: RunConfig) -> Check:
    """Whether records can be written, and how much."""
    return _folder("runs folder", Path(config.runs_dir), GIB, "Name another: runs_dir=FOLDER", prevents=True)


def cache_folder(model: ModelConfig) -> Check:
    """Whether the embedded model can be unpacked."""
    from lorascope.base.packaged import cache_dir

    unpacked = _is_unpacked(model)
    needs = 0 if unpacked else GIB // 2
    return _folder("cache folder", cache_dir(), needs, "Set LORASCOPE_CACHE to another.", prevents=not unpacked)


def _is_unpacked(model: ModelConfig) -> bool:
    from lorascope.base.packaged import is_unpacked

    with suppress(ModelError):
        return is_unpacked(model)
    return False


def hub_cache() -> Check:
    """Room for models of the hub."""
    from huggingface_hub.constants import HF_HUB_CACHE

    remedy = "A 7B model takes 15 GB. Set HF_HOME to another."
    return _folder("hub cache", Path(HF_HUB_CACHE), 16 * GIB, remedy, prevents=False)


def _folder(name: str, folder: Path, needs: int, remedy: str, *, prevents: bool) -> Check:
    """Whether a folder, or the nearest one above it that exists, can be written and has room."""
    folder = folder.expanduser().absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        found = f"{folder} cannot be written: {error.strerror}"
        return Check(name, "problem" if prevents else "note", found, remedy, prevents)
    free = shutil.disk_usage(there).free
    found = f"{folder}, {_size(free)} free"
    return Check(name, "note", found, f"This is little. {remedy}") if free < needs else Check(name, "ok", found)


def _size(number: float) -> str:
    """A number of bytes for reading; `terminal.megabytes` would need rich, which may be what is missing."""
    return f"{number / GIB:.1f} GiB"


def embedded_model(model: ModelConfig) -> Check:
    """The package that ships the default model, and its file."""
    from lorascope.base.packaged import package_version

    if not model.package:
        return Check("embedded model", "note", f"{model.name} is not an embedded one.", "Take model=smollm2.")
    try:
        found = package_version(model)
    except ModelError as error:
        return Check("embedded model", "problem", error.what, error.remedy, prevents=True)
    how = "unpacked" if _is_unpacked(model) else "to be unpacked by the first run"
    return Check("embedded model", "ok", f"{found}, {how}")


# packages


@functools.cache
def required() -> dict[str, Any]:
    """Package -> its requirement, as the installed lorascope declares them; empty where that cannot be read."""
    with suppress(PackageNotFoundError, ImportError):
        from packaging.requirements import Requirement

        return {one.name: one for one in map(Requirement, requires("lorascope") or ())}
    return {}


def package(name: str, *, prevents: bool | None = None, trial: Callable[[], str] = str) -> Check:
    """Whether a package is there, can be imported, stands a trial that says more of it, and is in its range."""
    prevents = name not in WITHOUT if prevents is None else prevents
    allowed = required()[name].specifier if name in required() else None
    wanted = ",".join(sorted(str(allowed or "").split(","), reverse=True))
    install = f"{REINSTALL}, or pip install '{name}{wanted}'"
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name, "problem", "is not installed", install, prevents)
    from packaging.utils import canonicalize_name

    began = time.monotonic()
    try:
        # its module need not be its namesake (scikit-learn has sklearn), nor its metadata spell it as we do (Jinja2)
        modules = sorted(
            one for one, those in _distributions().items() if canonicalize_name(name) in map(canonicalize_name, those)
        )
        plain = name.replace("-", "_")
        module = importlib.import_module(plain if plain in modules else modules[0])
        getattr(module, PARTS.get(name, "__name__"))
        more = trial()
    except (Exception, SystemExit) as error:
        return Check(name, "problem", f"{found} cannot be used: {said(error)}", install, prevents)
    if (seconds := time.monotonic() - began) > SLOW:
        more += f"; slow to import, {seconds:.0f} s"
    if allowed and not allowed.contains(found, prereleases=True):
        return Check(name, "problem", f"{found} is outside of {wanted}, what lorascope was written for", install)
    return Check(name, "ok", f"{found} ({wanted}){more}" if wanted else found + more)


_distributions = functools.cache(packages_distributions)


def wandb(wanted: str) -> Check:
    """Whether W&B would be told online; nothing is sent, no key is shown."""
    from lorascope.trackers.wandb_account import wandb_mode

    mode, why = wandb_mode(wanted)
    if mode == "online":
        return Check("W&B", "ok", f"online ({why})")
    return Check("W&B", "note", f"{mode} ({why})", "Runs are kept here. To send them: wandb login, or WANDB_API_KEY.")


# torch, the GPU, the hub


def torch() -> Check:
    """torch, and what `auto` means with it."""

    def auto() -> str:
        import torch

        from lorascope.config.machine import resolve

        config = resolve(RunConfig())
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        chosen = f"device={config.device}, {config.model.dtype}, quantization={config.quantization.scheme}"
        return f", {build}; auto is {chosen}"

    return package("torch", trial=auto)


def device() -> Check:
    """The GPU and its memory, or why there is none."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        found = f"{torch.cuda.get_device_name()}, {_size(free)} free of {_size(total)}"
        if free < total / 2:
            return Check("device", "note", found, "Another process holds the rest: nvidia-smi names it.")
        return Check("device", "ok", found)
    if torch.backends.mps.is_available():
        return Check("device", "ok", "Apple GPU (MPS)")
    if not (Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi")):
        found = f"no GPU; {torch.get_num_threads()} CPU threads"
        return Check("device", "note", found, "Enough for the embedded model; a model of 7B needs a CUDA GPU.")
    found = f"an NVIDIA GPU is here, but this torch, built for CUDA {torch.version.cuda}, cannot use it"
    remedy = "Look with nvidia-smi: the driver may be too old for this build." if torch.version.cuda else ""
    return Check("device", "note", found, remedy or "Install a torch with CUDA: make setup TORCH=…")


def bitsandbytes() -> Check:
    """bitsandbytes; on CUDA no run works without, since there quantization=auto is nf4."""
    import torch

    return package("bitsandbytes", prevents=torch.cuda.is_available(), trial=_nf4_and_back)


def _nf4_and_back() -> str:
    """A small matrix through nf4 on the device that runs would use."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    place = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.linspace(-1, 1, 4096, device=place).reshape(64, 64)
    error = (dequantize_4bit(*quantize_4bit(matrix, blocksize=64, quant_type="nf4")) - matrix).abs().max().item()
    if not error < 0.16:  # the widest gap between two nf4 levels is 0.304 of a block's largest value
        raise ArithmeticError(f"nf4 and back on {place} is off by {error:.2f}")
    return f", nf4 and back on {place} works"


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
        found = f"answers with an error, {getattr(error.response, 'status_code', '?')}; {token}"
        return Check("hub", "note", found, "The embedded model needs no hub. On a 401, log in again: hf auth login")
    except Exception as error:  # its text is not shown: it may hold a proxy's password
        remedy = "Connect once to download a model; the embedded one needs no hub. A mirror: HF_ENDPOINT=URL"
        return Check("hub", "note", f"cannot be reached ({type(error).__name__}); {token}", remedy)
    return Check("hub", "ok", f"reachable, {token}")
