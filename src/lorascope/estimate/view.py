"""The estimates as lines under a plan."""

from __future__ import annotations

from lorascope.config import Scheme
from lorascope.estimate.compute import ComputeEstimate
from lorascope.estimate.memory import MemoryEstimate

GIB = 2**30
SMALLEST = 0.05 * GIB
LABEL = 23
FLOP = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def lines(memory: MemoryEstimate, compute: ComputeEstimate) -> list[str]:
    """Memory with its parts in GiB, and the arithmetic, a line each."""
    setting = memory.setting
    always = {
        f"weights {setting.dtype if setting.scheme is Scheme.none else setting.scheme}": memory.weights,
        "adapter+optimizer": memory.adapter + memory.gradients + memory.optimizer,
        "activations": memory.activations,
    }
    where_large = {"logits": memory.logits, "mapped file": memory.mapped, "libraries": memory.baseline}
    shown = always | {name: size for name, size in where_large.items() if size >= SMALLEST}
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in shown.items())
    checkpointing = ", checkpointing" if setting.checkpointing else ", no checkpointing" if setting.on_cuda else ""
    batch = f"batch {setting.batch_size} x {setting.length}{checkpointing}"
    run = "" if compute.run is None else f", {flop(compute.run)} this run"
    return [
        f"{'memory':<{LABEL}}~ {_gib(memory.total)} GiB    {parts} ({batch})",
        f"{'compute':<{LABEL}}~ {flop(compute.total)} a token{run}",
    ]


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= SMALLEST else "<0.1"


def flop(number: float) -> str:
    """Floating-point operations for reading: 29 GFLOP, 1.8 EFLOP."""
    for size, letter in FLOP:
        if number >= size:
            value = number / size
            return f"{value:.1f} {letter}FLOP" if value < 10 else f"{value:.0f} {letter}FLOP"
    return f"{number:.0f} FLOP"
