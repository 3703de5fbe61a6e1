"""What fits on a GPU: checkpointing or not, and smaller batches of the same effective size."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from lorascope.config.schema import Device, RunConfig
from lorascope.errors import ConfigError
from lorascope.planning.memory import MemoryEstimate, memory_of
from lorascope.planning.model_dims import survey
from lorascope.planning.step_spec import CHECKPOINTING, CHECKPOINTING_BEFORE, StepSpec, step_spec_of
from lorascope.targets.plan import TargetPlan

# Of a GPU's memory, what torch's allocator does not give to tensors: the CUDA context (about half a GiB) and holes
HEADROOM = 0.08
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b?)", re.IGNORECASE)
POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True)
class Suggestion:
    """One way to make the same step of the optimizer."""

    batch_size: int
    gradient_accumulation: int
    checkpointing: bool
    predicted_bytes: int
    fits: bool
    current: bool  # what was asked about

    @property
    def overrides(self) -> str:
        """The overrides that choose it."""
        return (
            f"train.batch_size={self.batch_size} train.gradient_accumulation={self.gradient_accumulation} "
            f"train.sft.{CHECKPOINTING}={str(self.checkpointing).lower()}"
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


def needs_checkpointing(without: MemoryEstimate, gpu_memory: int) -> bool:
    """Whether activations must be computed again: where keeping them all leaves a GPU less than its headroom.

    Args:
        without: the estimate of the run without checkpointing.
        gpu_memory: bytes that the run may take, of a GPU that others use as well the free ones.
    """
    return not fits(without, gpu_memory)


def with_checkpointing(
    config: RunConfig,
    model: Any,
    plan: TargetPlan,
    gpu_memory: int | None,
    *,
    length: int | None = None,
    supervised: int | None = None,
    device: Device | None = None,
) -> RunConfig:
    """The config with `train.sft.activation_checkpointing` said: on CUDA only where the run would not fit without it.

    What the user says stands; on other devices it is off. Where the GPU's memory is not known, nothing is said, and it
    is on. The results do not depend on it, so the run keeps the name that it has without this.

    Args:
        config: resolved, unless `device` is named.
        model: on the meta device, as `build_on_meta` gives it.
        plan: of the adapter, for this model.
        gpu_memory: bytes that the run may take; None where they are not known, or it is not the GPU's that count.
        length: tokens of the longest row; `train.max_length` where it is not known.
        supervised: of them, those with a loss; all where it is not known.
        device: plan as if on this one.
    """
    step = step_spec_of(config, device=device, length=length, supervised=supervised)
    said = CHECKPOINTING in config.train.sft or CHECKPOINTING_BEFORE in config.train.sft
    if said or gpu_memory is None or not step.on_cuda:
        return config
    without = memory_of(dataclasses.replace(step, checkpointing=False), survey(model), plan)
    sft = config.train.sft | {CHECKPOINTING: needs_checkpointing(without, gpu_memory)}
    return dataclasses.replace(config, train=dataclasses.replace(config.train, sft=sft))


def suggestions(
    config: RunConfig,
    model: Any,
    plan: TargetPlan,
    gpu_memory: int,
    *,
    length: int | None = None,
    supervised: int | None = None,
) -> list[Suggestion]:
    """Ways to train with the config's effective batch (batch_size x gradient_accumulation) on a GPU, fastest first.

    Those that fit come first: without checkpointing, which computes a forward again, before those with it; among these
    larger batches before smaller ones. What does not fit follows, least memory first.

    Args:
        config: of the run, for whatever device; it is planned as if on CUDA.
        model: on the meta device, as `build_on_meta` gives it.
        plan: of the adapter, for this model.
        gpu_memory: bytes, all of the GPU's, or the free ones.
        length: tokens of the longest row; `train.max_length` where it is not known.
        supervised: of them, those with a loss; all where it is not known.
    """
    rows: dict[str, Any] = {"length": length, "supervised": supervised}
    config = with_checkpointing(config, model, plan, gpu_memory, device=Device.cuda, **rows)
    now = step_spec_of(config, device=Device.cuda, **rows)
    dims = survey(model)
    effective = now.batch_size * now.accumulation
    found = []
    for batch_size in (size for size in range(1, effective + 1) if effective % size == 0):
        for checkpointing in (False, True):
            step = dataclasses.replace(
                now, batch_size=batch_size, accumulation=effective // batch_size, checkpointing=checkpointing
            )
            memory = memory_of(step, dims, plan)
            found.append(_suggestion(step, memory, gpu_memory, current=step == now))
    return sorted(found, key=_order)


def _suggestion(step: StepSpec, memory: MemoryEstimate, gpu_memory: int, *, current: bool) -> Suggestion:
    return Suggestion(
        batch_size=step.batch_size,
        gradient_accumulation=step.accumulation,
        checkpointing=step.checkpointing,
        predicted_bytes=memory.total,
        fits=fits(memory, gpu_memory),
        current=current,
    )


def _order(one: Suggestion) -> tuple[int, int, int]:
    if one.fits:
        return 0, int(one.checkpointing), -one.batch_size
    return 1, one.predicted_bytes, 0
