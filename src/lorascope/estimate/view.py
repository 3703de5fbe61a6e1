"""The estimates as lines under a plan."""

from __future__ import annotations

from lorascope.config import Scheme
from lorascope.estimate.compute import ComputeEstimate
from lorascope.estimate.memory import MemoryEstimate
from lorascope.wording import SMALLEST, flop, gibibytes

LABEL = 23


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
    parts = ", ".join(f"{name} {gibibytes(size)}" for name, size in shown.items())
    checkpointing = ", checkpointing" if setting.checkpointing else ", no checkpointing" if setting.on_cuda else ""
    batch = f"batch {setting.batch_size} x {setting.length}{checkpointing}"
    run = "" if compute.run is None else f", {flop(compute.run)} this run"
    return [
        f"{'memory':<{LABEL}}~ {gibibytes(memory.total)} GiB    {parts} ({batch})",
        f"{'compute':<{LABEL}}~ {flop(compute.total)} a token{run}",
    ]
