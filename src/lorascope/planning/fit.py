"""What fits on a GPU: checkpointing or not, and smaller batches of the same effective size."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from lorascope.config.schema import Device, RunConfig
from lorascope.errors import ConfigError
from lorascope.planning.memory import MemoryEstimate, estimate_memory
from lorascope.planning.model_dims import ModelDims
from lorascope.planning.step_spec import CHECKPOINTING, StepSpec, step_spec_of
from lorascope.targets.plan import TargetPlan

# Of a GPU's memory, what torch's allocator does not give to tensors: the CUDA context (about half a GiB) and holes
HEADROOM = 0.08
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b?)", re.IGNORECASE)
POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True)
class Suggestion:
    """One way to make the same step of the optimizer."""

    step: StepSpec
    predicted_bytes: int
    fits: bool
    current: bool  # what was asked about

    @property
    def overrides(self) -> str:
        """The overrides that choose it."""
        step = self.step
        return (
            f"train.batch_size={step.batch_size} train.gradient_accumulation={step.accumulation} "
            f"train.sft.{CHECKPOINTING}={str(step.checkpointing).lower()}"
        )


def parse_bytes(text: str | int, key: str = "gpu_memory") -> int:
    """A memory's size: 24GiB (2^30 each), 80GB (10^9 each), 24G (as 24GiB, as GPUs are sold), or bytes.

    Raises:
        ConfigError: for anything else; `key` names the setting.
    """
    found = SIZE.fullmatch(str(text).strip())
    if found is None:
        raise ConfigError(key, f"'{text}' is not a size.", "Write it like 24GiB or 80GB.")
    number, letter, unit = float(found[1]), found[2].lower(), found[3].lower()
    base = 1000 if unit == "b" else 1024
    return int(number * base ** POWERS[letter])


def fits(memory: MemoryEstimate, gpu_memory: int) -> bool:
    """Whether an estimate leaves a GPU of so many bytes its headroom."""
    return memory.total <= (1 - HEADROOM) * gpu_memory


def with_checkpointing(
    config: RunConfig, dims: ModelDims, plan: TargetPlan, gpu_memory: int | None, **row: Any
) -> RunConfig:
    """The config with `train.sft.activation_checkpointing` said: on CUDA only where the run would not fit without it.

    What the user says stands; on other devices it is off. Where the GPU's memory is not known, nothing is said, and it
    is on. The results do not depend on it, so the run keeps the name that it has without this.

    Args:
        config: resolved, unless `device` is named.
        gpu_memory: bytes that the run may take, of a GPU that others use as well the free ones; None where they are
            not known, or it is not the GPU's that count.
        row: device, length and supervised, as `step_spec_of` takes them.
    """
    step = step_spec_of(config, **row)
    if CHECKPOINTING in config.train.sft or gpu_memory is None or not step.on_cuda:
        return config
    without = estimate_memory(replace(step, checkpointing=False), dims, plan)
    sft = config.train.sft | {CHECKPOINTING: not fits(without, gpu_memory)}
    return replace(config, train=replace(config.train, sft=sft))


def suggestions(
    config: RunConfig,
    dims: ModelDims,
    plan: TargetPlan,
    gpu_memory: int,
    device: Device = Device.cuda,
    **row: Any,
) -> list[Suggestion]:
    """Ways to train with the config's effective batch (batch_size x gradient_accumulation), fastest first.

    Those that fit come first: without checkpointing, which computes a forward again, before those with it; among these
    larger batches before smaller ones. What does not fit follows, least memory first.

    Args:
        config: of the run, for whatever device; it is planned as if on `device`.
        gpu_memory: bytes, all of the GPU's, or the free ones; of another device, the machine's.
        row: length and supervised, as `step_spec_of` takes them.
    """
    config = with_checkpointing(config, dims, plan, gpu_memory, device=device, **row)
    now = step_spec_of(config, device=device, **row)
    effective = now.batch_size * now.accumulation
    sizes = [size for size in range(1, effective + 1) if effective % size == 0]
    found = []
    for size, checkpointing in product(sizes, (False, True)):
        step = replace(now, batch_size=size, accumulation=effective // size, checkpointing=checkpointing)
        memory = estimate_memory(step, dims, plan)
        found.append(Suggestion(step, memory.total, fits(memory, gpu_memory), current=step == now))
    return sorted(found, key=_order)


def _order(one: Suggestion) -> tuple[int, ...]:
    return (0, one.step.checkpointing, -one.step.batch_size) if one.fits else (1, one.predicted_bytes)
