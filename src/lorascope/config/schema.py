"""All settings of a run as typed dataclasses."""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

# o_gate: a gate on attention's output; latent: what multi-head latent attention compresses into, for k and v alike
ATTENTION_ROLES = ("q", "k", "v", "o", "o_gate", "latent")
FFN_ROLES = ("gate", "up", "down")
MIXER_ROLES = ("mixer",)  # what recurs or convolves in attention's place: state spaces, linear attention
ROLES = ATTENTION_ROLES + FFN_ROLES + MIXER_ROLES
HIGHEST_RANK = 2**16  # beyond any use; PEFT would ask for its memory all the same
# `all` was named before mixers had a role, and keeps its meaning; `block` is all and them
GROUPS: dict[str, tuple[str, ...]] = {
    "attention": ATTENTION_ROLES,
    "ffn": FFN_ROLES,
    "all": ATTENTION_ROLES + FFN_ROLES,
    "block": ROLES,
}

# Where a run computes; `auto` takes the first of cuda, mps, cpu that is there.
Device = StrEnum("Device", ["auto", "cpu", "cuda", "mps"])

# The frozen base's dtype; `auto` is bfloat16 where the device computes in it, else float32.
Dtype = StrEnum("Dtype", ["auto", "bfloat16", "float16", "float32"])

# The attention kernel, as transformers names it.
Attention = StrEnum("Attention", ["eager", "sdpa", "flash_attention_2"])

# How the frozen base's linear layers are stored; `auto` is nf4 on CUDA and none elsewhere.
Scheme = StrEnum("Scheme", ["auto", "nf4", "int8", "none"])

# The learning rate's course after the warm-up.
Scheduler = StrEnum("Scheduler", ["constant", "linear", "cosine"])

# What a role that some layers lack does: stop the plan, or be left out there and recorded.
Missing = StrEnum("Missing", ["error", "allow"])

# A fused module is adapted by parts, each as if it stood alone, or as PEFT does: whole, with one A for all.
Fused = StrEnum("Fused", ["parts", "native"])

# What a row that cannot be learned from does: stop the run, or be counted and left out.
OnBadRow = StrEnum("OnBadRow", ["error", "skip"])

# What a run that was cut does: go on from its latest checkpoint, or begin anew.
Resume = StrEnum("Resume", ["auto", "never"])


class Documents(StrEnum):
    """What one document is in a file of plain text."""

    file = "file"  # the whole file
    paragraph = "paragraph"  # what stands between blank lines


class AlphaPolicy(StrEnum):
    """How alpha, and with it a module's scale, follows its rank."""

    constant = "constant"  # one alpha for every module: scale alpha / r
    proportional = "proportional"  # alpha holds at rank 8 and grows with the rank: scale alpha / 8
    rslora = "rslora"  # rank-stabilized, arXiv:2312.03732: scale alpha / sqrt(r)


class Bias(StrEnum):
    """Biases that are trained beside the adapter, as PEFT's LoraConfig has it."""

    none = "none"
    lora_only = "lora_only"  # of the adapted modules; of a fused one's parts, their own rows
    all = "all"  # every parameter of the base that is called bias


class Init(StrEnum):
    """Where A and B start."""

    lora = "lora"  # A from (seed, layer, role), B zero
    pissa = "pissa"  # the weight's principal components, taken out of the base, arXiv:2404.02948
    eva = "eva"  # A from the inputs' principal components, arXiv:2410.07170
    loftq = "loftq"  # what 4 bits lost of the weight, arXiv:2310.08659


class Auto(StrEnum):
    """Who places the adapter, where no role is named."""

    plop = "plop"  # the module types with the lowest normalised feature norms, arXiv:2506.20629
    eva = "eva"  # ranks by the inputs' explained variance, arXiv:2410.07170
    kappa = "kappa"  # the modules with the lowest condition numbers, arXiv:2506.16289


@dataclass(kw_only=True)
class ModelConfig:
    """The frozen base: `path` (hub id or local folder), or `package` (a Python package that ships a GGUF file)."""

    name: str | None = None
    path: str | None = None
    revision: str = "main"
    package: str | None = None
    package_file: str | None = None
    hub_id: str | None = None  # of a package's model: where others find the base of a stored adapter
    dtype: Dtype = Dtype.auto
    attention: Attention = Attention.sdpa
    learning_rate: float | None = (
        None  # one that was tested; without it, that of published tables for its type and size
    )
    architecture: dict[str, Any] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)  # role -> module, for a model whose names tell nothing
    content: str | None = None  # hash of a local folder's files, filled in when they are found
    trust_remote_code: bool = False  # run the code that the model brings along: from the hub at a pinned commit only

    @property
    def base_name(self) -> str | None:
        """What a stored adapter calls its base: a hub id, or the path as it was given."""
        return self.hub_id or self.path or self.package


@dataclass(kw_only=True)
class DatasetConfig:
    """What is learned: a source with its own options, or files or a hub data set by path; caps on the rows."""

    name: str | None = None
    source: str = "home_intents"
    path: Any = None  # a file, a folder or a glob, or a list of them; a hub id
    eval_path: Any = None  # the same for the eval half; without it, eval_split or eval_share decides
    eval_subset: str | None = None  # of eval_path
    eval_revision: str = "main"  # of eval_path
    eval_columns: dict[str, str] = field(default_factory=dict)  # where the eval half's columns have other names
    subset: str | None = None  # of a hub data set, what the hub calls its config
    split: str = "train"
    eval_split: str | None = None
    revision: str = "main"
    columns: dict[str, str] = field(default_factory=dict)  # field, or name in `prompt` -> column
    system: str | None = None  # put before every conversation that has none
    group: str | None = None  # column whose values never stand on both sides of the split
    eval_share: float = 0.1
    on_bad_row: OnBadRow = OnBadRow.error
    streaming: bool = False  # files and hub: rows and tokens go through the disk, and a cap takes the first rows
    prompt: str | None = None  # a question made of columns: 'Premise: {premise} Hypothesis: {hypothesis}'
    labels: list[str] = field(default_factory=list)  # classes by name; a column of whole numbers is read by them
    metrics: list[str] = field(default_factory=list)  # by name, or your own: package.module:function, file.py:function
    drop: list[str] = field(default_factory=list)  # columns that are not read, and keys of messages: messages[].name
    documents: Documents = Documents.file  # of .txt and .md files
    chat_template: str | None = None  # a file with a Jinja template in place of the model's own
    template_kwargs: dict[str, Any] = field(default_factory=dict)  # variables of the chat template
    parts: dict[str, Any] = field(default_factory=dict)  # of a mixture: name -> weight, or weight and settings
    validation_share: float | None = None  # this share of the train half is judged, not the eval half: to tune by
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
    o_gate: int | None = None
    latent: int | None = None
    gate: int | None = None
    up: int | None = None
    down: int | None = None
    mixer: int | None = None
    attention: int | None = None
    ffn: int | None = None
    all: int | None = None
    block: int | None = None

    def given(self) -> dict[str, int]:
        """Only the roles and groups that have a rank."""
        return {name: rank for name, rank in dataclasses.asdict(self).items() if rank is not None}


@dataclass(kw_only=True)
class AutoConfig:
    """Automatic placement: a method, how much it picks, and how many prompts it may read."""

    method: Auto | None = None
    types: int = 3  # plop: module types to adapt
    share: float = 0.2  # kappa: of the modules
    prompts: int = 100  # plop, eva
    mixers: bool = False  # place on recurrent mixers too


@dataclass(kw_only=True)
class TargetConfig:
    """A strategy: where the adapter goes, at which rank and scale."""

    name: str | None = None
    ranks: Ranks = field(default_factory=Ranks)
    modules: dict[str, int] = field(default_factory=dict)  # ranks of what has no role, by name: lm_head, embed_tokens
    peft_default: int | None = None  # instead of ranks: PEFT's own choice for the model's type, at this rank
    auto: AutoConfig = field(default_factory=AutoConfig)  # instead of ranks, where the weights decide
    layers: Any = "all"  # str | int | list, of which OmegaConf allows no union; checks.py looks at the kind
    missing: Missing = Missing.error
    fused: Fused = Fused.parts
    budget: int | float | str | None = None  # 10M, or a strategy: ranks are scaled to that number of parameters
    budget_strategy: dict[str, Any] = field(default_factory=dict)  # that strategy's settings, filled in by compose
    alpha: float = 16.0
    alpha_policy: AlphaPolicy = AlphaPolicy.constant
    lora_dropout: float = 0.05
    bias: Bias = Bias.none
    dora: bool = False
    init: Init = Init.lora


@dataclass(kw_only=True)
class QuantizationConfig:
    """How the base is stored while it is frozen (bitsandbytes)."""

    scheme: Scheme = Scheme.auto
    double_quant: bool = True
    experts: bool = False  # nf4: stacks of experts too, which bitsandbytes leaves as they are by itself


@dataclass(kw_only=True)
class StopEarlyConfig:
    """End a training when a metric no longer improves; nothing ends it where no metric is named."""

    metric: str | None = None  # eval_loss, or one that is measured on the sample
    patience: int = 3  # evaluations in a row without a better value


@dataclass(kw_only=True)
class TrainConfig:
    """How it is learned; whatever else SFTConfig offers goes under `sft`."""

    learning_rate: float | None = 2e-4  # null: the first guess for this model and alpha, see planning/first_guess.py
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 8
    gradient_accumulation: int = 1
    max_length: int = 512
    packing: bool = False  # short rows share one of max_length, none sees the others
    group_by_length: bool = False  # rows of like length share a batch, so that less is padded
    warmup_ratio: float = 0.05
    scheduler: Scheduler = Scheduler.cosine
    eval_steps: int | None = None
    eval_metrics: list[str] = field(default_factory=list)  # measured then too, on a sample: macro_f1, forgetting_kl …
    eval_samples: int = 32  # items, and texts of forgetting, of that sample
    eval_share: float = 0.05  # of the training's time for them; no limit where keep_best or stop_early goes by them
    save_steps: int | None = None
    save_minutes: float | None = 10.0  # between two checkpoints, where save_steps says nothing
    keep_best: Any = False  # true: the checkpoint with the lowest eval loss, beside the latest; or a metric's name
    stop_early: StopEarlyConfig = field(default_factory=StopEarlyConfig)
    logging_steps: int = 10
    sft: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """The learning rate of a resolved config."""
        assert self.learning_rate is not None
        return self.learning_rate


@dataclass(kw_only=True)
class ForgettingConfig:
    """What the adapter did to the rest of the model, on texts that the base wrote itself, or on a corpus."""

    texts: int = 32  # 0: not measured
    tokens: int = 64  # of each text
    path: str | None = None  # a hub data set or files with a column `text`, instead of the base's own texts
    split: str = "train"
    seed: int = 0


@dataclass(kw_only=True)
class EvaluationConfig:
    """What is measured besides the eval loss, before and after the training."""

    tasks: bool = True  # the data set's metrics
    max_samples: int | None = None  # items of each set
    max_new_tokens: int | None = None  # of a generated answer; the longest right answer's length and a half decides
    batch_tokens: int = 1024  # padded tokens of one forward pass
    predictions: bool = True  # keep each item's answer with the record
    every_label: bool = False  # score those labels too that cannot be the likeliest
    forgetting: ForgettingConfig = field(default_factory=ForgettingConfig)
    lm_eval: list[str] = field(default_factory=list)  # tasks of EleutherAI's harness
    lm_eval_limit: int | None = None  # items of each of them


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


class Execution(StrEnum):
    """Where the runs of a sweep or study are made."""

    shared = "shared"  # one after another in this process, over one base
    processes = "processes"  # one after another, each in a process of its own


@dataclass(kw_only=True)
class TaskConfig:
    """What the arms of a study are compared on, and by which of its metrics."""

    words: str = ""  # the overrides that make it: dataset=airports dataset.options.facts=100
    metric: str = "eval_loss"  # decides the verdict
    margin: float = 0.0  # a difference below this does not matter, in the metric's unit; 0: nothing is equivalent


@dataclass(kw_only=True)
class PilotConfig:
    """How each arm of a study finds its learning rate, on a share of the train half that it does not learn from."""

    points: int = 5  # rates at first, a factor of two apart, around train.learning_rate; 0: no pilot, one rate for all
    shares: list[float] = field(default_factory=lambda: [0.25, 0.5, 1.0])  # of a training; after each, half are left
    extend: int = 3  # rates beyond the grid on either side, where the best is at its edge
    validation_share: float = 0.15  # of the train half
    seed: int = 1000  # none of the study's


@dataclass(kw_only=True)
class StudyConfig:
    """A study: arms on tasks over paired seeds. Without arms there is none."""

    name: str | None = None
    title: str = ""
    arms: dict[str, str] = field(default_factory=dict)  # name -> the overrides that make it: target=q_v
    tasks: dict[str, TaskConfig] = field(default_factory=dict)  # the composed data set alone, where none is named
    reference: str | None = None  # the arm that the others are compared with; the first one, if it is not said
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    budget: str | None = None  # every arm's ranks are scaled to this number of parameters, or to this arm's
    same_rank: bool = False  # beside the matched arms, also as their ranks are
    axes: list[str] = field(default_factory=list)  # settings besides target.* in which arms may differ
    level: float = 0.05  # false verdicts, at most
    pilot: PilotConfig = field(default_factory=PilotConfig)
    retry: bool = False  # try again what failed


@dataclass(kw_only=True)
class RunConfig:
    """Everything that one run depends on."""

    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    seed: int = 0
    device: Device = Device.auto
    runs_dir: str = "runs"
    dry_run: bool = False
    overwrite: bool = False
    resume: Resume = Resume.auto
    execution: Execution = Execution.shared
    study: StudyConfig = field(default_factory=StudyConfig)


class CheapestBy(StrEnum):
    """What the cheapest of several arms is the lowest in."""

    parameters = "parameters"
    seconds = "seconds"
    memory = "memory"


@dataclass(kw_only=True)
class ShipConfig:
    """What an arm of a study must show before it is deployed; `conf/ship/default.yaml` says each."""

    min_gain: dict[str, float] = field(default_factory=dict)
    max_forgetting: float | None = 0.5
    verdicts: list[str] = field(default_factory=lambda: ["better", "equivalent", "reference"])
    all_seeds: bool = True
    merged_equals_evaluated: bool = True
    cheapest_by: CheapestBy = CheapestBy.parameters
    deliver: list[str] = field(default_factory=lambda: ["merged", "peft"])


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


def from_dict(kind: Any, values: dict[str, Any]) -> Any:
    """A config dataclass from what `as_dict` made of one; settings that are not named keep their defaults."""
    hints = typing.get_type_hints(kind)

    def read(hint: Any, value: Any) -> Any:
        if dataclasses.is_dataclass(hint):
            return from_dict(hint, value)
        for one in typing.get_args(hint) or (hint,):
            if isinstance(one, type) and issubclass(one, StrEnum) and value is not None:
                return one(value)
        return value

    return kind(**{name: read(hints[name], value) for name, value in values.items()})


@functools.cache
def all_settings() -> dict[str, Any]:
    """Every setting and every group of settings, by dotted name, with its type."""

    def walk(schema: Any, place: str) -> Iterator[tuple[str, Any]]:
        for key, kind in typing.get_type_hints(schema).items():
            yield place + key, kind
            if dataclasses.is_dataclass(kind):
                yield from walk(kind, f"{place}{key}.")

    return dict(walk(RunConfig, ""))


AMOUNT = re.compile(r"(\d{1,18}(?:\.\d+)?|\.\d+)\s*([kmbg]?)", re.IGNORECASE)
UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}


def amount(text: Any) -> int | None:
    """A number of parameters: 10M, 1.5m, 500k, 3407872; None for anything else, such as a strategy's name."""
    found = AMOUNT.fullmatch(str(text).strip().replace("_", ""))
    return round(float(found[1]) * UNITS[found[2].lower()]) if found else None
