"""Peak memory of a stretch of work, on the device that does it."""

from __future__ import annotations

import ctypes
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


def _process_peak() -> int:
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024  # macOS counts bytes, others KiB
