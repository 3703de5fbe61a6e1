"""Estimate the peak memory of a run, part by part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lorascope.planning.activations import forward_logits, passing, saved, training_logits
from lorascope.planning.model_dims import ModelDims
from lorascope.planning.step_spec import FLOAT32, StepSpec, loras, optimizer_bytes, placed, weights_bytes
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
    """Bytes at the peak of the phase that needs most."""

    weights: int  # the base, quantized or not
    mapped: int  # the file of a base that is quantized on a CPU: its pages stay in memory while there is room
    adapter: int  # the LoRAs in float32
    gradients: int  # the adapter's
    optimizer: int  # its state
    activations: int  # what the backward needs, and what the computation of a layer needs for a moment
    logits: int
    baseline: int  # Python, torch and the libraries; on CUDA, where the process's memory is not counted, 0
    phase: str  # loading, training or evaluation
    step: StepSpec  # what it was estimated for

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part."""
        return {name: value for name, value in vars(self).items() if isinstance(value, int)}

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


def estimate_memory(step: StepSpec, dims: ModelDims, plan: TargetPlan) -> MemoryEstimate:
    """Peak memory of a run, nothing of which is loaded: the largest of three phases."""
    adapter, device, evaluation = loras(plan, dims), step.device, step.evaluation
    tensors = [numbers for one in adapter for numbers in one.tensors]
    quantized = [one.parameters for one in step.quantized(dims)]
    same_file = dims.checkpoint_width == step.width
    still = {
        "weights": weights_bytes(dims, step),
        # unquantized weights are the file's own pages; of quantized ones, the pages that were read stay mapped
        "mapped": 0 if step.on_cuda or not same_file else sum(quantized) * step.width,
        "adapter": FLOAT32 * sum(tensors),
        "gradients": FLOAT32 * sum(tensors),
        "optimizer": optimizer_bytes(tensors, step.optimizer),
        "baseline": 0 if step.on_cuda else LIBRARIES + TOKENIZER * dims.head.d_out,
    }
    # what quantizing leaves in the heap, for others to use
    holes = 0 if step.on_cuda else min(HOLES, FLOAT32 * sum(quantized))
    # when the last weight is there, and the file's, if they are held in another number format
    copies = max(quantized, default=0) * (step.width if step.on_cuda else QUANTIZING)
    read = 0 if step.on_cuda or same_file else dims.parameters * dims.checkpoint_width
    loading = dict.fromkeys(("adapter", "gradients", "optimizer", "logits"), 0)
    loading |= {"mapped": still["mapped"] + read, "activations": copies + holes}
    # at the beginning of a backward pass: everything that was kept, and the logits or what a layer needs
    kept = placed(saved(dims, step, adapter, plan.lora_dropout), device)
    logits = sum(placed(training_logits(dims, step, adapter), device))
    layer = sum(placed(passing(dims, step, adapter), device))
    activations = sum(kept) + (layer if logits < layer else 0)
    training = {"activations": max(activations, holes), "logits": 0 if logits < layer else logits}
    # at the loss of a batch: nothing is kept for a backward, but a CPU's heap stays as the training left it
    blocks = passing(dims, evaluation, adapter), forward_logits(dims, evaluation)
    heap = max(kept[1], placed([*blocks[0], *blocks[1]], device)[1], holes)
    layer, logits = (placed(those, device)[0] for those in blocks)
    evaluating = {"activations": heap + layer, "logits": logits}
    phases = {"training": training, "evaluation": evaluating, "loading": loading}
    estimates = [MemoryEstimate(**still | parts, phase=phase, step=step) for phase, parts in phases.items()]
    return max(estimates, key=lambda estimate: estimate.total)
