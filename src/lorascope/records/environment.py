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


STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak(device: str) -> None:
    """Forget the peak so far, so that jobs of one process do not inherit it (hydra#2631)."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError, AttributeError):
        # what was freed and kept by the allocator counts as the process's still
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with suppress(OSError):
        CLEAR.write_text("5")  # Linux: VmHWM starts again at what is resident now


def peak(device: str) -> dict[str, Any]:
    """Bytes at the peak since `reset_peak`: of the GPU on CUDA, of the process elsewhere."""
    process = _process_peak()
    if device == "cuda":
        import torch

        return {
            "device": "cuda",
            "peak_bytes": torch.cuda.max_memory_allocated(),
            "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
            "process_peak_bytes": process,
        }
    return {"device": device, "peak_bytes": process}


def gpu_bytes(device: str) -> int | None:
    """All of the GPU's memory; None where it is not the GPU's that counts."""
    if device != "cuda":
        return None
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def free_gpu_bytes(device: str) -> int | None:
    """What this process may have of the GPU's memory, with what it has; None where it is not the GPU's that counts."""
    if device != "cuda":
        return None
    import torch

    free, _ = torch.cuda.mem_get_info()
    return int(free) + int(torch.cuda.memory_reserved())


def machine_memory() -> tuple[int, int]:
    """All and free bytes: the machine's, or less where a container or a batch job has a limit; 0 where nobody tells."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    free = total
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    with suppress(OSError, ValueError):  # ValueError: "max", no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # read files are counted as used, and given back when memory is wanted
        total, free = min(total, limit), min(free, limit - used + int(stat.get("inactive_file", 0)))
    return total, free


def _process_peak() -> int:
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024  # macOS counts bytes, others KiB


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
    """The value with each secret of the environment replaced, however deep in dicts and lists, also inside a text."""
    return _clean(value, secrets(os.environ))


def redact_file(path: Path) -> None:
    """The same for a text file that another program wrote, if it is there: Hydra keeps a sweep's config of its own."""
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        clean = redact(text)
        if clean != text:
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
