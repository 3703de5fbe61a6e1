"""Memory: the peak of a stretch of work on the device that does it, and what is free."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

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
