"""The machine and the versions that a run was made with."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "lorascope", "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "hydra-core",
    "wandb", "safetensors",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Python, platform, processors and package versions; no names of users, hosts or folders."""
    import torch

    found = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpu_threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in PACKAGES},
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
    return found


def exactness(found: dict[str, Any]) -> dict[str, Any]:
    """What of an environment the last bits of a result depend on, by name."""
    return found["packages"] | {name: found.get(name) for name in ("python", "cpu", "cpu_threads", "gpu", "cuda")}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    if sys.platform.startswith("linux"):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or f"{os.cpu_count()} processors"
