"""The machine of a run: versions, memory, and secrets that must not be written."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "lorascope", "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "hydra-core",
    "wandb", "safetensors",
)  # fmt: skip
PROC = Path("/proc")  # Linux only


def environment() -> dict[str, Any]:
    """Python, platform, processors and package versions; no names of users, hosts or folders."""
    import torch

    found = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _proc("cpuinfo", "model name") or platform.processor() or f"{os.cpu_count()} processors",
        "cpu_threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in PACKAGES},
    }
    if torch.cuda.is_available():
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return found


def exactness(found: dict[str, Any]) -> dict[str, Any]:
    """What the last bits of a result depend on in an environment, by name."""
    return found["packages"] | {name: found.get(name) for name in ("python", "cpu", "cpu_threads", "gpu", "cuda")}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _proc(file: str, name: str) -> str:
    """The value of the first line with this name in a file below /proc; empty where there is none."""
    with suppress(OSError):
        for line in (PROC / file).read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""


def _proc_bytes(file: str, name: str) -> int | None:
    value = _proc(file, name).removesuffix(" kB")
    return int(value) * 1024 if value else None


def reset_peak(device: str) -> None:
    """Start a new peak, so that jobs of one process do not inherit it (hydra#2631)."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError, AttributeError):
        # memory that was freed and kept by the allocator still counts as the process's
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with suppress(OSError):
        (PROC / "self/clear_refs").write_text("5")  # VmHWM starts again at what is resident now


def peak(device: str) -> dict[str, Any]:
    """Bytes at the peak since `reset_peak`: of the GPU on CUDA, of the process elsewhere."""
    process = _process_peak()
    if device != "cuda":
        return {"device": device, "peak_bytes": process}
    import torch

    return {
        "device": "cuda",
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
        "process_peak_bytes": process,
    }


def _process_peak() -> int:
    if high_water := _proc_bytes("self/status", "VmHWM"):
        return high_water
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024  # macOS counts bytes, others KiB


def gpu_bytes(device: str) -> int | None:
    """All of the GPU's memory; None on another device."""
    if device != "cuda":
        return None
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def free_gpu_bytes(device: str) -> int | None:
    """The GPU's memory that is free or already reserved by this process; None on another device."""
    if device != "cuda":
        return None
    import torch

    return int(torch.cuda.mem_get_info()[0]) + int(torch.cuda.memory_reserved())


def machine_memory() -> tuple[int, int]:
    """All and free bytes: the machine's, or less where a container or a batch job has a limit; 0 where not known."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    free = _proc_bytes("meminfo", "MemAvailable") or total
    with suppress(OSError, ValueError):  # ValueError: "max", no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # read files are counted as used, and given back when memory is wanted
        total, free = min(total, limit), min(free, limit - used + int(stat.get("inactive_file", 0)))
    return total, free


REDACTED = "[redacted]"
# HF_TOKEN, WANDB_API_KEY, AWS_SECRET_ACCESS_KEY, DB_PASSWORD; not TOKENIZERS_PARALLELISM, not SSH_KEY_PATH
SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD)S?(_|$)", re.IGNORECASE)
NO_SECRET_NAME = re.compile(r"_(FILE|PATH|DIR|NAME|URL)$", re.IGNORECASE)
SHORTEST = 8  # a shorter value (KEY=1, TOKEN=none) hides nothing and would blot out innocent words
HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")  # known by its form, wherever it came from


def secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The values of the environment's secrets and the variables' names, the longest value first."""
    found = {
        value.strip(): name
        for name, value in environment.items()
        if SECRET_NAME.search(name) and not NO_SECRET_NAME.search(name) and len(value.strip()) >= SHORTEST
    }
    return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))


def redact(value: Any) -> Any:
    """The value with each secret of the environment replaced, also inside dicts, lists and text."""
    return _clean(value, secrets(os.environ))


def redact_file(path: Path) -> None:
    """Redact a text file that another program wrote, if it is there: Hydra writes a sweep's config itself."""
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        if (clean := redact(text)) != text:
            path.write_text(clean, encoding="utf-8")


def _clean(value: Any, found: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for secret in found:
            value = value.replace(secret, REDACTED)
        return HUB_TOKEN.sub(REDACTED, value)
    if isinstance(value, dict):
        return {_clean(key, found): _clean(item, found) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item, found) for item in value]
    return value
