"""Estimate the peak memory of a run, part by part."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from lorascope.config.schema import Device, RunConfig
from lorascope.planning.activations import evaluated_rows, evaluation_logits, passing, saved, training_logits
from lorascope.planning.model_dims import ModelDims, survey
from lorascope.planning.step_spec import (
    FLOAT32,
    Lora,
    MemoryBlock,
    StepSpec,
    lasting,
    loras,
    optimizer_bytes,
    quantized_matrices,
    resident,
    step_spec_of,
    weights_bytes,
)
from lorascope.targets.plan import TargetPlan

# Of a process on Linux with Python 3.11 and torch 2.13+cpu: 500 MiB after `import datasets, peft, torch, transformers;
# from trl import SFTTrainer`, 580 after a training, without model and adapter. 155 of them are files that are mapped.
LIBRARIES = 580 * 2**20
TOKENIZER = 650  # bytes for each entry of the vocabulary: SmolLM2's 49,152 take 31 MiB
# While bitsandbytes quantizes on a CPU, bytes a number for copies in float32 and int32; and what stays of them as holes
# in the heap: 60 to 620 MiB in seven loadings of SmolLM2, 150 and 165 of a model with four times its parameters.
QUANTIZING, HOLES = 14, 250 * 2**20


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak of the phase that needs most.

    Args:
        weights: the base, quantized or not.
        mapped: the file of a base that is quantized on a CPU: its pages stay in memory while there is room.
        adapter: the LoRAs in float32.
        gradients: the adapter's.
        optimizer: its state.
        activations: what the backward needs, and what the computation of a layer needs for a moment.
        logits: the vocabulary's.
        baseline: Python, torch and the libraries; on CUDA, where the process's memory is not counted, 0.
        phase: loading, training or evaluation.
        step: what it was estimated for.
    """

    weights: int
    mapped: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    baseline: int
    phase: str
    step: StepSpec

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, int)}

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return sum(self.parts.values())

    def entry(self) -> dict[str, Any]:
        """The estimate as a record keeps it."""
        step = self.step
        return {
            "device": str(step.device),
            "peak_bytes": self.total,
            "phase": self.phase,
            "parts": self.parts,
            "batch_size": step.batch_size,
            "length": step.length,
            "supervised": step.supervised,
            "activation_checkpointing": step.checkpointing,
        }


def estimate_memory(
    config: RunConfig,
    model: Any,
    plan: TargetPlan,
    *,
    length: int | None = None,
    supervised: int | None = None,
    device: Device | None = None,
) -> MemoryEstimate:
    """Peak memory of a run, nothing of which is loaded.

    Args:
        config: resolved, unless `device` is named.
        model: on the meta device, as `build_on_meta` gives it.
        plan: of the adapter, for this model.
        length: tokens of the longest row; `train.max_length`, which bounds it, where it is not known.
        supervised: of them, those with a loss; all, which bounds it, where it is not known.
        device: plan as if on this one.
    """
    step = step_spec_of(config, device=device, length=length, supervised=supervised)
    return memory_of(step, survey(model), plan)


def memory_of(step: StepSpec, dims: ModelDims, plan: TargetPlan) -> MemoryEstimate:
    """Peak memory of a run: the largest of three phases."""
    adapter = loras(plan, dims)
    numbers = sum(sum(one.tensors) for one in adapter)
    tensors = [count for one in adapter for count in one.tensors]
    same_file = dims.checkpoint_width == step.width
    file = dims.parameters * dims.checkpoint_width
    quantized = quantized_matrices(dims, step)
    still = {
        "weights": weights_bytes(dims, step),
        # unquantized weights are the file's own pages; of quantized ones, the pages that were read stay mapped
        "mapped": 0 if step.on_cuda or not same_file else sum(one.parameters for one in quantized) * step.width,
        "adapter": FLOAT32 * numbers,
        "gradients": FLOAT32 * numbers,
        "optimizer": optimizer_bytes(tensors, step.optimizer),
        "baseline": 0 if step.on_cuda else LIBRARIES + TOKENIZER * dims.head.d_out,
    }
    kept = saved(dims, step, adapter, plan.lora_dropout)
    phases = (
        _training(step, dims, adapter, kept, still),
        _evaluation(step, dims, adapter, kept, still),
        _loading(step, dims, still, 0 if same_file else file),
    )
    return max(phases, key=lambda phase: phase.total)


def _training(
    step: StepSpec, dims: ModelDims, adapter: list[Lora], kept: list[MemoryBlock], still: dict[str, int]
) -> MemoryEstimate:
    """At the beginning of a backward pass: everything that was kept, and the logits or what a layer needs."""
    logits = resident(training_logits(dims, step, adapter), step.device)
    layer = resident(passing(dims, step, adapter), step.device)
    activations = resident(kept, step.device)
    if logits < layer:
        activations, logits = activations + layer, 0
    activations = max(activations, _holes(dims, step))
    return MemoryEstimate(**still, activations=activations, logits=logits, phase="training", step=step)


def _evaluation(
    step: StepSpec, dims: ModelDims, adapter: list[Lora], kept: list[MemoryBlock], still: dict[str, int]
) -> MemoryEstimate:
    """At the loss of a batch: nothing is kept for a backward, but a CPU's heap stays as the training left it."""
    batch = dataclasses.replace(step, batch_size=evaluated_rows(step))
    layer, logits = passing(dims, batch, adapter), evaluation_logits(dims, step)
    device = step.device
    heap = max(lasting(kept, device), lasting(layer + logits, device), _holes(dims, step))
    return MemoryEstimate(
        **still,
        activations=heap + resident(layer, device) - lasting(layer, device),
        logits=resident(logits, device) - lasting(logits, device),
        phase="evaluation",
        step=step,
    )


def _loading(step: StepSpec, dims: ModelDims, still: dict[str, int], file: int) -> MemoryEstimate:
    """When the last weight is there: `file` bytes were read that are held in another number format."""
    largest = max((one.parameters for one in quantized_matrices(dims, step)), default=0)
    copies = largest * (step.width if step.on_cuda else QUANTIZING)
    nothing_yet = dict.fromkeys(("adapter", "gradients", "optimizer", "logits"), 0)
    mapped = still["mapped"] + (0 if step.on_cuda else file)
    return MemoryEstimate(
        **still | nothing_yet | {"mapped": mapped},
        activations=copies + _holes(dims, step),
        phase="loading",
        step=step,
    )


def _holes(dims: ModelDims, step: StepSpec) -> int:
    """What quantizing leaves in the heap, for others to use."""
    numbers = sum(one.parameters for one in quantized_matrices(dims, step))
    return 0 if step.on_cuda else min(HOLES, FLOAT32 * numbers)
