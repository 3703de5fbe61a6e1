"""What of a run's config decides memory and compute, on this machine's device or as if on another."""

from __future__ import annotations

from dataclasses import dataclass

from lorascope.config import Attention, Device, Dtype, EvaluationConfig, RunConfig, Scheme, TrainConfig
from lorascope.models.device import optimizer, resolve

WIDTHS = {Dtype.bfloat16: 2, Dtype.float16: 2, Dtype.float32: 4}  # bytes a number
CHECKPOINTING = "activation_checkpointing"  # train.sft's name of it, and what it was called before transformers 5.23
CHECKPOINTING_BEFORE = "gradient_checkpointing"
# of what stands in activation_checkpointing_kwargs, what transformers and TRL take out before torch gets the rest
NOT_TORCHS = ("every_n_layers", "offload", "selective")


@dataclass(frozen=True)
class Setting:
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
    def padded(self) -> bool:
        """Whether some row is shorter, so that attention gets a mask; for one row alone there is none."""
        return self.batch_size > 1


def setting_of(
    config: RunConfig, *, device: Device | None = None, length: int | None = None, supervised: int | None = None
) -> Setting:
    """The setting of a run.

    Args:
        config: resolved, unless `device` is named.
        device: plan as if on this one: what is `auto` in the config is decided as it is there.
        length: tokens of the longest row; `train.max_length` where it is not known.
        supervised: of them, those with a loss; all where it is not known.
    """
    config = resolve(config, device or config.device)
    train = config.train
    length = min(length or train.max_length, train.max_length)
    checkpointing = train.sft.get(CHECKPOINTING, train.sft.get(CHECKPOINTING_BEFORE))
    return Setting(
        device=config.device,
        dtype=config.model.dtype,
        scheme=config.quantization.scheme,
        double_quant=config.quantization.double_quant,
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
