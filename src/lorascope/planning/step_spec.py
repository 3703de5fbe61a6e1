"""What a training step works on: sizes, LoRA matrices, and bytes that stay for the whole run."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from lorascope.config.machine import optimizer, resolve
from lorascope.config.schema import Attention, Device, Dtype, EvaluationConfig, RunConfig, Scheme, TrainConfig
from lorascope.planning.model_dims import INTO_ATTENTION, Matrix, ModelDims
from lorascope.targets.plan import TargetPlan

# On a CPU, glibc serves blocks below 32 MiB (DEFAULT_MMAP_THRESHOLD_MAX) from a heap that does not fit torch's aligned
# blocks into the holes that they leave, and gives nothing back. Measured at six settings of two models, as the peak
# with and without MALLOC_MMAP_THRESHOLD_=131072, where every block is given back: 1.36 to 1.54 times what is alive.
HEAP, MAPPED = 1.45, 32 * 2**20


class MemoryBlock(NamedTuple):
    """Tensors of one size that live together."""

    what: str
    size: float  # bytes of each
    copies: float = 1  # 0 where a step has none


def total(blocks: Iterable[MemoryBlock]) -> float:
    """Bytes of all blocks."""
    return sum(block.size * block.copies for block in blocks)


def placed(blocks: Collection[MemoryBlock], device: Device) -> tuple[int, int]:
    """Bytes that tensors take on a device: those that go back with them, and those that the process keeps."""
    small = total(block for block in blocks if block.size < MAPPED) if device is Device.cpu else 0
    return round(total(blocks) - small), round(HEAP * small)


WIDTHS = {Dtype.bfloat16: 2, Dtype.float16: 2, Dtype.float32: 4}  # bytes a number
CHECKPOINTING = "activation_checkpointing"  # train.sft's name of it, and what it was called before transformers 5.23
CHECKPOINTING_BEFORE = "gradient_checkpointing"
# of what stands in activation_checkpointing_kwargs, what transformers and TRL take out before torch gets the rest
NOT_TORCHS = ("every_n_layers", "offload", "selective")


@dataclass(frozen=True)
class StepSpec:
    """One micro-batch of a run, and where and how it is computed."""

    device: Device
    dtype: Dtype  # of the base
    scheme: Scheme
    double_quant: bool
    attention: Attention
    batch_size: int
    accumulation: int
    length: int  # tokens of every row
    supervised: int  # of them, those with a loss
    checkpointing: bool
    optimizer: str
    evaluated: int = EvaluationConfig.batch_tokens  # padded tokens of one forward pass of the evaluation
    experts: bool = False  # stacks of experts are quantized too
    reentrant: bool = False  # checkpointing of the kind that asks the embeddings for a gradient

    @property
    def width(self) -> int:
        """Bytes of a number of the base."""
        return WIDTHS[self.dtype]

    @property
    def on_cuda(self) -> bool:
        """Whether a GPU's memory is counted, rather than the process's."""
        return self.device is Device.cuda

    @property
    def tokens(self) -> int:
        """Padded tokens of a micro-batch."""
        return self.batch_size * self.length

    @property
    def evaluation(self) -> StepSpec:
        """The largest batch of an evaluation."""
        return replace(self, batch_size=max(1, self.evaluated // self.length))

    def quantized(self, dims: ModelDims) -> list[Matrix]:
        """The weights that are stored quantized."""
        if self.scheme is Scheme.none:
            return []
        return [one for one in dims.matrices if one.quantized or (self.experts and one.stored > 1)]


def step_spec_of(
    config: RunConfig, *, device: Device | None = None, length: int | None = None, supervised: int | None = None
) -> StepSpec:
    """The step of a run.

    Args:
        config: resolved, unless `device` is named.
        device: plan as if on this one: what is `auto` in the config is decided as it is there.
        length: tokens of the longest row; `train.max_length` where it is not known.
        supervised: of them, those with a loss; all where it is not known.
    """
    config = resolve(config, device or config.device)
    train = config.train
    length = min(length or train.max_length, train.max_length)
    checkpointing = train.sft.get(CHECKPOINTING)
    return StepSpec(
        device=config.device,
        dtype=config.model.dtype,
        scheme=config.quantization.scheme,
        double_quant=config.quantization.double_quant,
        experts=config.quantization.experts,
        attention=config.model.attention,
        batch_size=train.batch_size,
        accumulation=train.gradient_accumulation,
        length=length,
        supervised=min(supervised or length, length),
        checkpointing=config.device is Device.cuda if checkpointing is None else bool(checkpointing),
        optimizer=optimizer(config),
        evaluated=config.evaluation.batch_tokens,
        reentrant=is_reentrant(train),
    )


def is_reentrant(train: TrainConfig) -> bool:
    """Whether checkpointing, if it is on, is torch's reentrant kind: it needs inputs that ask for a gradient.

    The other kind is transformers' choice where torch is told nothing, and torch's where `use_reentrant` is false.
    """
    options = train.sft.get(f"{CHECKPOINTING}_kwargs") or {}
    if not isinstance(options, dict):  # JSON as text, which is left to transformers
        return True
    passed = {name: value for name, value in options.items() if name not in NOT_TORCHS}
    return bool(passed) and passed.get("use_reentrant") is not False


@dataclass(frozen=True)
class Lora:
    """One LoRA: on a weight, or on planned parts of one, with their ranks together; or a trained bias, at rank 0."""

    name: str
    layer: int  # -1 outside the blocks
    stage: int
    d_in: int
    d_out: int  # of the whole weight, or of the bias
    rank: int = 0
    stored: int = 1  # experts
    dora: bool = False
    rebased: bool = False  # DoRA with dropout: PEFT multiplies the base's weight, in float32, a second time

    @property
    def tensors(self) -> tuple[int, ...]:
        """Numbers in A and in B, or in the bias."""
        if not self.rank:
            return (self.d_out,)
        return self.stored * self.rank * self.d_in, self.stored * self.rank * self.d_out


def loras(plan: TargetPlan, dims: ModelDims) -> list[Lora]:
    """The LoRAs of a plan, in its order, and its biases."""
    found = []
    for site in plan.sites:
        part = site.parts[0]
        # a table of embeddings is no product's weight
        weight = dims.by_name.get(site.name) or Matrix(site.name, -1, (), INTO_ATTENTION, part.d_in, part.d_out)
        rebased = site.dora and plan.lora_dropout > 0
        size = (site.d_in, weight.d_out, site.rank, weight.stored)
        found.append(Lora(site.name, site.layer, weight.stage, *size, site.dora, rebased))
    for term in plan.biases:
        stage = dims.by_name[term.module].stage if term.module in dims.by_name else INTO_ATTENTION
        found.append(Lora(term.module, term.layer, stage, 0, term.size))
    return found


def first_layer(adapter: list[Lora], dims: ModelDims, step: StepSpec) -> int:
    """The first layer with a backward pass; the number of layers where none has one.

    With reentrant checkpointing it is the first of all: the embeddings' output is then made to require a gradient.
    """
    below = [max(one.layer, 0) for one in adapter if one.name != dims.head.name]  # the embeddings come before all
    return 0 if step.checkpointing and step.reentrant else min(below, default=len(dims.layers))


FLOAT32 = 4
# bitsandbytes, QLoRA's storage (arXiv:2305.14314): one float32 absmax for 64 numbers; with double quantization
# one byte instead, and one float32 for 256 of these; two tables of codes beside them
BLOCK, BLOCK_OF_BLOCKS = 64, 256
CODES = 4 * (16 + 256)
# below so many numbers bitsandbytes keeps an 8-bit optimizer's state in float32
SMALLEST_8BIT = 4096
# float32 numbers of state for each trained number; AdamW's two moments where the name is not here
STATES = {"sgd": 0, "adagrad": 1, "rmsprop": 1, "lion_32bit": 1, "paged_lion_32bit": 1, "adafactor": 0}


def weights_bytes(dims: ModelDims, step: StepSpec) -> int:
    """Bytes of the base as it is held: what is not quantized has the base's dtype."""
    quantized = step.quantized(dims)
    kept = dims.parameters - sum(one.parameters for one in quantized)
    return sum(_quantized_bytes(one, step) for one in quantized) + kept * step.width + dims.buffer_bytes


def _quantized_bytes(matrix: Matrix, step: StepSpec) -> int:
    """Of a weight that bitsandbytes holds, with all that it needs to be read again."""
    if step.scheme is Scheme.int8:
        return matrix.parameters + FLOAT32 * matrix.d_out
    blocks = -(-matrix.parameters // BLOCK)
    double = blocks + FLOAT32 * -(-blocks // BLOCK_OF_BLOCKS) + CODES
    return -(-matrix.parameters // 2) + (double if step.double_quant else FLOAT32 * blocks + 64)


def optimizer_bytes(tensors: Iterable[int], optimizer: str) -> int:
    """Bytes of the state for tensors of so many numbers; `optimizer` as transformers' `optim` names it."""
    if "8bit" in optimizer:
        moments = 1 if "lion" in optimizer else 2
        return sum(
            moments * (count + FLOAT32 * -(-count // BLOCK_OF_BLOCKS)) if count >= SMALLEST_8BIT else 8 * count
            for count in tensors
        )
    return FLOAT32 * STATES.get(optimizer, 2) * sum(tensors)
