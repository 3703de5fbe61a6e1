"""The one schema: a run's settings as typed dataclasses, and the checks that need nothing but the settings.

Hydra composes YAML files and overrides into `RunConfig`; everything behind that door takes plain values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lorascope.errors import ConfigError

ATTENTION_ROLES = ("q", "k", "v", "o")
FFN_ROLES = ("gate", "up", "down")
ROLES = ATTENTION_ROLES + FFN_ROLES
GROUPS: dict[str, tuple[str, ...]] = {"attention": ATTENTION_ROLES, "ffn": FFN_ROLES, "all": ROLES}


class Device(StrEnum):
    """Where a run computes; `auto` takes the first of cuda, mps, cpu that is there."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Dtype(StrEnum):
    """The frozen base's dtype; `auto` is bfloat16 where the device computes in it, else float32."""

    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


class Attention(StrEnum):
    """The attention kernel, as transformers names it."""

    eager = "eager"
    sdpa = "sdpa"
    flash_attention_2 = "flash_attention_2"


class AlphaPolicy(StrEnum):
    """How alpha, and with it a module's scale, follows its rank."""

    constant = "constant"  # one alpha for every module: scale alpha / r
    proportional = "proportional"  # alpha holds at rank 8 and grows with the rank: scale alpha / 8
    rslora = "rslora"  # rank-stabilized, arXiv:2312.03732: scale alpha / sqrt(r)


class Bias(StrEnum):
    """Biases that are trained beside the adapter."""

    none = "none"


class Scheme(StrEnum):
    """How the frozen base's linear layers are stored; `auto` is nf4 on CUDA and none elsewhere."""

    auto = "auto"
    nf4 = "nf4"
    int8 = "int8"
    none = "none"


class Scheduler(StrEnum):
    """The learning rate's course after the warm-up."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"


@dataclass(kw_only=True)
class ModelConfig:
    """The frozen base: one of `path` (hub id or local folder) and `package` (one that ships a GGUF file)."""

    name: str | None = None
    path: str | None = None
    revision: str = "main"
    package: str | None = None
    package_file: str | None = None
    dtype: Dtype = Dtype.auto
    attention: Attention = Attention.sdpa
    learning_rate: float = 2e-4
    architecture: dict[str, Any] = field(default_factory=dict)


class OnBadRow(StrEnum):
    """What a row that cannot be learned from does: stop the run, or be counted and left out."""

    error = "error"
    skip = "skip"


@dataclass(kw_only=True)
class DatasetConfig:
    """What is learned: a source with its own options, or files or a hub data set by path; caps on the rows."""

    name: str | None = None
    source: str = "home_intents"
    path: str | None = None  # files, a folder or a glob; a hub id
    eval_path: str | None = None  # files of the eval half; without it, eval_share decides
    subset: str | None = None  # of a hub data set, what the hub calls its config
    split: str = "train"
    eval_split: str | None = None
    revision: str = "main"
    columns: dict[str, str] = field(default_factory=dict)  # field -> column
    system: str | None = None  # put before every conversation that has none
    group: str | None = None  # column whose values never stand on both sides of the split
    eval_share: float = 0.1
    on_bad_row: OnBadRow = OnBadRow.error
    content: str | None = None  # hash of the files, filled in when they are found
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Ranks:
    """A rank for a role or a group; the narrower entry wins, an absent one gets no adapter."""

    q: int | None = None
    k: int | None = None
    v: int | None = None
    o: int | None = None
    gate: int | None = None
    up: int | None = None
    down: int | None = None
    attention: int | None = None
    ffn: int | None = None
    all: int | None = None

    def given(self) -> dict[str, int]:
        """Only the roles and groups that have a rank."""
        return {name: rank for name, rank in dataclasses.asdict(self).items() if rank is not None}


@dataclass(kw_only=True)
class TargetConfig:
    """A strategy: where the adapter goes, at which rank and scale."""

    name: str | None = None
    ranks: Ranks = field(default_factory=Ranks)
    peft_default: int | None = None  # instead of ranks: PEFT's own choice for the model's type, at this rank
    alpha: float = 16.0
    alpha_policy: AlphaPolicy = AlphaPolicy.constant
    lora_dropout: float = 0.05
    bias: Bias = Bias.none


@dataclass(kw_only=True)
class QuantizationConfig:
    """How the base is stored while it is frozen (bitsandbytes)."""

    scheme: Scheme = Scheme.auto
    double_quant: bool = True


@dataclass(kw_only=True)
class TrainConfig:
    """How it is learned; whatever else SFTConfig offers goes under `sft`."""

    learning_rate: float = 2e-4
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 8
    gradient_accumulation: int = 1
    max_length: int = 512
    warmup_ratio: float = 0.05
    scheduler: Scheduler = Scheduler.cosine
    eval_steps: int | None = None
    save_steps: int | None = None
    logging_steps: int = 10
    sft: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class WandbConfig:
    """Weights & Biases: `mode` auto is online when a key is configured, else offline."""

    enabled: bool = False
    project: str = "lorascope"
    entity: str | None = None
    mode: str = "auto"


@dataclass(kw_only=True)
class TensorBoardConfig:
    """TensorBoard's event files in the run's folder."""

    enabled: bool = False


@dataclass(kw_only=True)
class TrackioConfig:
    """Trackio, on this machine alone."""

    enabled: bool = False
    project: str = "lorascope"


@dataclass(kw_only=True)
class LoggerConfig:
    """Who is told besides the local record, one tracker or several, and the group a run is shown in."""

    group: str | None = None
    tags: list[str] = field(default_factory=list)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    tensorboard: TensorBoardConfig = field(default_factory=TensorBoardConfig)
    trackio: TrackioConfig = field(default_factory=TrackioConfig)


@dataclass(kw_only=True)
class RunConfig:
    """Everything that one run depends on."""

    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    seed: int = 0
    device: Device = Device.auto
    runs_dir: str = "runs"
    dry_run: bool = False
    overwrite: bool = False


WANDB_MODES = ("auto", "online", "offline")


def as_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as JSON-ready values: enums become their strings."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, StrEnum) else value

    result: dict[str, Any] = plain(dataclasses.asdict(config))
    return result


def check(config: RunConfig) -> None:
    """Refuse values that no run can have.

    Raises:
        ConfigError: the first such value, with its key.
    """
    for problem in _problems(config):
        raise problem


def _problems(config: RunConfig) -> Iterator[ConfigError]:
    yield from _target_problems(config.target)
    yield from _train_problems(config.train)
    yield from _model_problems(config.model)
    if not 0 < config.dataset.eval_share < 1:
        share = config.dataset.eval_share
        yield ConfigError("dataset.eval_share", f"{share} is no share of the rows.", "Take a number between 0 and 1.")
    for key in ("max_train_samples", "max_eval_samples"):
        yield from _at_least(f"dataset.{key}", getattr(config.dataset, key), 1, "leave it out for all rows")
    if not 0 <= config.seed < 2**32:
        yield ConfigError("seed", f"{config.seed} is not a seed.", "Take a whole number from 0 to 4294967295.")
    if not config.runs_dir.strip():
        yield ConfigError("runs_dir", "is empty.", "Name a folder for the runs: runs_dir=runs")
    if config.logger.wandb.mode not in WANDB_MODES:
        modes = ", ".join(WANDB_MODES)
        yield ConfigError("logger.wandb.mode", f"'{config.logger.wandb.mode}' is not a mode.", f"Take one of: {modes}.")


def _target_problems(target: TargetConfig) -> Iterator[ConfigError]:
    given = target.ranks.given()
    if target.peft_default is not None:
        yield from _at_least("target.peft_default", target.peft_default, 1, "the rank of every module")
        if given:
            yield ConfigError(
                "target.ranks", "set together with target.peft_default.", "Name roles, or leave the choice to PEFT."
            )
    elif not given:
        yield ConfigError(
            "target.ranks",
            "no role has a rank, so nothing would be trained.",
            "Give at least one role or group a rank: target.ranks.q=8",
        )
    for role, rank in given.items():
        if rank < 1:
            yield ConfigError(
                f"target.ranks.{role}",
                f"{rank} is not a rank.",
                "A rank is a whole number from 1 up; leave the role out (null) to skip it.",
            )
    if not (math.isfinite(target.alpha) and target.alpha > 0):
        yield ConfigError("target.alpha", f"{target.alpha} scales nothing.", "Take a number above 0; 16 is usual.")
    if not 0 <= target.lora_dropout < 1:
        yield ConfigError(
            "target.lora_dropout", f"{target.lora_dropout} is not a probability below 1.", "Take 0 to 0.99."
        )


def _train_problems(train: TrainConfig) -> Iterator[ConfigError]:
    if not (math.isfinite(train.learning_rate) and train.learning_rate >= 0):
        yield ConfigError(
            "train.learning_rate", f"{train.learning_rate} is not a rate.", "Take 0 or more; 2e-4 is usual for 7B."
        )
    if not (math.isfinite(train.epochs) and train.epochs > 0):
        yield ConfigError("train.epochs", f"{train.epochs} passes over the data.", "Take a number above 0.")
    if not 0 <= train.warmup_ratio < 1:
        yield ConfigError("train.warmup_ratio", f"{train.warmup_ratio} is no share of the steps.", "Take 0 to 0.99.")
    for key, remedy in (
        ("max_steps", "leave it out (null) to let train.epochs decide"),
        ("batch_size", "rows a step and device"),
        ("gradient_accumulation", "batches a step"),
        ("logging_steps", "steps between two log lines"),
        ("eval_steps", "leave it out (null) to evaluate before and after only"),
        ("save_steps", "leave it out (null) to keep the final adapter only"),
    ):
        yield from _at_least(f"train.{key}", getattr(train, key), 1, remedy)
    yield from _at_least("train.max_length", train.max_length, 2, "tokens a row may have")


def _model_problems(model: ModelConfig) -> Iterator[ConfigError]:
    if bool(model.path) == bool(model.package):
        yield ConfigError(
            "model.path",
            "set together with model.package." if model.path else "no model is named.",
            "Name one: model=smollm2, or model=hf model.path=HUB_ID_OR_FOLDER",
        )
    if model.package and not model.package_file:
        yield ConfigError("model.package_file", "is missing.", f"Name the GGUF file inside {model.package}.")


def _at_least(key: str, value: int | None, low: int, remedy: str) -> Iterator[ConfigError]:
    if value is not None and value < low:
        yield ConfigError(key, f"{value} is too small.", f"Take a whole number from {low} up: {remedy}.")
