"""Check a config for values that no run can have."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator

from lorascope.config.schema import (
    HIGHEST_RANK,
    Auto,
    DatasetConfig,
    Init,
    ModelConfig,
    RunConfig,
    TargetConfig,
    TrainConfig,
    amount,
)
from lorascope.errors import ConfigError

COMMIT = re.compile(r"[0-9a-f]{40}")
WANDB_MODES = ("auto", "online", "offline")
HIGHEST = 2**31 - 1  # of what is counted


def check(config: RunConfig) -> None:
    """Refuse values that no run can have.

    Raises:
        ConfigError: the first such value, with its key.
    """
    for problem in _problems(config):
        raise problem


def check_target(target: TargetConfig) -> None:
    """The same for a strategy alone.

    Raises:
        ConfigError: the first such value, with its key.
    """
    for problem in _target_problems(target):
        raise problem


def check_dataset(dataset: DatasetConfig) -> None:
    """The same for a data set alone.

    Raises:
        ConfigError: the first such value, with its key.
    """
    for problem in _dataset_problems(dataset):
        raise problem


def _problems(config: RunConfig) -> Iterator[ConfigError]:
    yield from _target_problems(config.target)
    yield from _train_problems(config.train)
    yield from _model_problems(config.model)
    yield from _dataset_problems(config.dataset)
    yield from _must("seed", config.seed, 0 <= config.seed < 2**32, "be from 0 to 4294967295", "For example seed=0.")
    for tag in config.logger.tags:
        yield from _must("logger.tags", tag, isinstance(tag, str), "be words", "For example logger.tags=[one,two].")
    runs_dir = os.path.expanduser(config.runs_dir)
    if not runs_dir.strip() or "\0" in runs_dir or runs_dir.startswith("~"):
        yield ConfigError("runs_dir", f"must be a folder (got '{config.runs_dir}').", "For example runs_dir=runs.")
    mode, modes = config.logger.wandb.mode, ", ".join(WANDB_MODES)
    yield from _must(
        "logger.wandb.mode", f"'{mode}'", mode in WANDB_MODES, f"be one of {modes}", "The default is auto."
    )


def _dataset_problems(dataset: DatasetConfig) -> Iterator[ConfigError]:
    for key in ("path", "eval_path"):
        value = getattr(dataset, key)
        paths = value if isinstance(value, list) else [value]
        if value is not None and not (paths and all(isinstance(one, str) for one in paths)):
            yield ConfigError(f"dataset.{key}", f"must be a path or a list of paths (got {value!r}).", "Name files.")
    yield from _share("dataset.eval_share", dataset.eval_share)
    if dataset.validation_share is not None:
        yield from _share("dataset.validation_share", dataset.validation_share)
        if dataset.streaming:
            yield _clash(
                "dataset.validation_share", "dataset.streaming, which reads rows once", "dataset.streaming=false"
            )
    for key in ("max_train_samples", "max_eval_samples"):
        yield from _count(f"dataset.{key}", getattr(dataset, key), 1, "Leave it out for all rows.")


def _target_problems(target: TargetConfig) -> Iterator[ConfigError]:
    given = target.ranks.given()
    chosen = {
        "target.ranks": bool(given),
        "target.peft_default": target.peft_default is not None,
        "target.auto.method": target.auto.method is not None,
    }
    set_together = [key for key, is_set in chosen.items() if is_set]
    if len(set_together) > 1:
        yield _clash(set_together[0], " and ".join(set_together[1:]), "one of the three")
    if not set_together and not target.modules:
        what = "must give at least one role a rank, or nothing would be trained."
        yield ConfigError("target.ranks", what, "For example target.ranks.q=8.")
    yield from _count("target.peft_default", target.peft_default, 1, "It is the rank of every module.")
    yield from _auto_problems(target)
    for key, ranks in (("target.modules", target.modules), ("target.ranks", given)):
        for name, rank in ranks.items():
            well = isinstance(rank, int) and 1 <= rank <= HIGHEST_RANK
            remedy = "Leave it out (null) to adapt nothing there."
            yield from _must(f"{key}.{name}", rank, well, f"be a whole number from 1 to {HIGHEST_RANK}", remedy)
    if target.budget is not None and amount(target.budget) == 0:
        remedy = "For example 10M, 500k, or the name of a strategy."
        yield ConfigError("target.budget", f"must be > 0 (got {target.budget}).", remedy)
    if target.dora and target.init is not Init.lora:
        yield _clash("target.dora", f"target.init={target.init}", "one, to compare one change at a time")
    yield from _must("target.alpha", target.alpha, _above(target.alpha, 0), "be > 0", "16 is usual.")
    dropout = target.lora_dropout
    yield from _must("target.lora_dropout", dropout, 0 <= dropout < 1, "be in [0, 1)", "0.05 is usual.")


def _auto_problems(target: TargetConfig) -> Iterator[ConfigError]:
    auto = target.auto
    if auto.method is None:
        return
    here = f"target.auto.method={auto.method}"
    if target.budget is None:
        yield ConfigError("target.budget", f"must be given with {here}.", "For example 10M, or budget: qv_ffn.")
    if target.modules:
        yield _clash("target.modules", here)
    if target.init not in (Init.lora, Init.eva):
        yield _clash(f"target.init={target.init}", here)
    if target.dora and auto.method is Auto.eva:
        yield _clash("target.dora", here)
    yield from _count("target.auto.types", auto.types, 1, "It is the number of module types that plop adapts.")
    yield from _count("target.auto.prompts", auto.prompts, 1, "It is the number of prompts that plop and eva read.")
    yield from _must("target.auto.share", auto.share, 0 < auto.share <= 1, "be in (0, 1]", "0.2 is usual.")


def _train_problems(train: TrainConfig) -> Iterator[ConfigError]:
    rate, epochs, ratio, minutes = train.learning_rate, train.epochs, train.warmup_ratio, train.save_minutes
    yield from _must("train.learning_rate", rate, rate == 0 or _above(rate, 0), "be >= 0", "2e-4 is usual for 7B.")
    yield from _must("train.epochs", epochs, _above(epochs, 0), "be > 0", "For example train.epochs=1.")
    yield from _must("train.warmup_ratio", ratio, 0 <= ratio < 1, "be in [0, 1)", "0.05 is usual.")
    if train.keep_best and train.eval_steps is None:
        remedy = "Say how often the eval loss is measured: train.eval_steps=50"
        yield ConfigError("train.keep_best", "must come with train.eval_steps: the best is chosen among them.", remedy)
    if train.group_by_length and train.packing:
        yield _clash("train.group_by_length", "train.packing, which leaves no padding")
    for key, low, remedy in (
        ("max_steps", 1, "Leave it out (null) to train for train.epochs."),
        ("batch_size", 1, "It is the number of rows per step and device."),
        ("gradient_accumulation", 1, "It is the number of batches per step."),
        ("logging_steps", 1, "It is the number of steps between two log lines."),
        ("eval_steps", 1, "Leave it out (null) to evaluate before and after training only."),
        ("save_steps", 1, "Leave it out (null) to save by train.save_minutes."),
        ("max_length", 2, "It is the largest number of tokens in a row."),
    ):
        yield from _count(f"train.{key}", getattr(train, key), low, remedy)
    if minutes is not None:
        remedy = "Leave it out (null) to save no checkpoints by time."
        yield from _must("train.save_minutes", minutes, minutes == 0 or _above(minutes, 0), "be >= 0", remedy)


def _model_problems(model: ModelConfig) -> Iterator[ConfigError]:
    if bool(model.path) == bool(model.package):
        what = "cannot be combined with model.package." if model.path else "must name a model."
        yield ConfigError("model.path", what, "For example model=smollm2, or model=hf model.path=HUB_ID_OR_FOLDER.")
    if model.trust_remote_code and not COMMIT.fullmatch(model.revision) and not is_local(model.path or ""):
        yield ConfigError(
            "model.revision",
            f"must be a full commit with model.trust_remote_code=true (got '{model.revision}'): its code is run here.",
            "Name the commit that you have read, all 40 digits: model.revision=COMMIT",
        )
    if model.package_file and (model.package_file.startswith(("/", "~")) or ".." in model.package_file.split("/")):
        what = f"must lie inside the package (got {model.package_file})."
        yield ConfigError("model.package_file", what, "Name a file of the package.")
    if model.package and not model.package_file:
        yield ConfigError("model.package_file", "must be given.", f"Name the GGUF file inside {model.package}.")


def _must(key: str, value: object, well: bool, rule: str, remedy: str) -> Iterator[ConfigError]:
    if not well:
        finite = not isinstance(value, float) or math.isfinite(value)
        yield ConfigError(key, f"must {rule if finite else 'be a finite number'} (got {value}).", remedy)


def _above(value: float, low: float) -> bool:
    return math.isfinite(value) and value > low


def _share(key: str, value: float) -> Iterator[ConfigError]:
    yield from _must(key, value, 0 < value < 1, "be between 0 and 1", "It is a share of the rows; 0.1 is usual.")


def _count(key: str, value: int | None, low: int, remedy: str) -> Iterator[ConfigError]:
    if value is not None:
        yield from _must(key, value, value >= low, f"be >= {low}", remedy)
        yield from _must(key, value, value <= HIGHEST, f"be <= {HIGHEST}", remedy)


def _clash(key: str, other: str, leave_out: str = "one") -> ConfigError:
    return ConfigError(key, f"cannot be combined with {other}.", f"Set {leave_out}.")


def is_local(path: str) -> bool:
    """Whether `path` is meant as a folder on this machine, rather than a hub id such as org/name."""
    return os.path.isdir(os.path.expanduser(path)) or path.startswith(("/", ".", "~")) or path.count("/") > 1
