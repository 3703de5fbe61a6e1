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
    if not 0 <= config.seed < 2**32:
        yield ConfigError("seed", f"{config.seed} is not a seed.", "Take a whole number from 0 to 4294967295.")
    if strange := [tag for tag in config.logger.tags if not isinstance(tag, str)]:
        yield ConfigError("logger.tags", f"{strange[0]} is no tag.", "A tag is a word: logger.tags=[one,two]")
    runs_dir = os.path.expanduser(config.runs_dir)
    if not runs_dir.strip() or "\0" in runs_dir or runs_dir.startswith("~"):
        yield ConfigError("runs_dir", "names no folder.", "Name a folder for the runs: runs_dir=runs")
    if config.logger.wandb.mode not in WANDB_MODES:
        modes = ", ".join(WANDB_MODES)
        yield ConfigError("logger.wandb.mode", f"'{config.logger.wandb.mode}' is not a mode.", f"Take one of: {modes}.")


def _dataset_problems(dataset: DatasetConfig) -> Iterator[ConfigError]:
    if not 0 < dataset.eval_share < 1:
        share = dataset.eval_share
        yield ConfigError("dataset.eval_share", f"{share} is no share of the rows.", "Take a number between 0 and 1.")
    if dataset.validation_share is not None:
        if not 0 < dataset.validation_share < 1:
            what = f"{dataset.validation_share} is no share of the rows."
            yield ConfigError("dataset.validation_share", what, "Take a number between 0 and 1.")
        if dataset.streaming:
            what = "rows that are streamed cannot be divided again."
            yield ConfigError("dataset.validation_share", what, "Leave one out: dataset.streaming=false")
    for key in ("max_train_samples", "max_eval_samples"):
        yield from _at_least(f"dataset.{key}", getattr(dataset, key), 1, "leave it out for all rows")


def _target_problems(target: TargetConfig) -> Iterator[ConfigError]:
    given = target.ranks.given()
    chosen = {
        "target.ranks": bool(given),
        "target.peft_default": target.peft_default is not None,
        "target.auto.method": target.auto.method is not None,
    }
    set_together = [key for key, is_set in chosen.items() if is_set]
    if len(set_together) > 1:
        yield ConfigError(
            set_together[0],
            f"set together with {' and '.join(set_together[1:])}.",
            "Name roles, or leave the choice to PEFT or to the weights: one of the three.",
        )
    if not set_together and not target.modules:
        yield ConfigError(
            "target.ranks",
            "no role has a rank, so nothing would be trained.",
            "Give at least one role or group a rank: target.ranks.q=8",
        )
    if target.peft_default is not None:
        yield from _at_least("target.peft_default", target.peft_default, 1, "the rank of every module")
    yield from _auto_problems(target)
    for name, rank in target.modules.items():
        if not isinstance(rank, int) or not 1 <= rank <= HIGHEST_RANK:
            remedy = f"A rank is a whole number from 1 to {HIGHEST_RANK}."
            yield ConfigError(f"target.modules.{name}", f"{rank} is not a rank.", remedy)
    if target.budget is not None and amount(target.budget) == 0:
        yield ConfigError("target.budget", "0 parameters train nothing.", "Take 10M, 500k, or a strategy's name.")
    if target.dora and target.init is not Init.lora:
        yield ConfigError(
            "target.dora",
            f"set together with target.init={target.init}.",
            "Compare one change at a time: leave one out.",
        )
    for role, rank in given.items():
        if not 1 <= rank <= HIGHEST_RANK:
            yield ConfigError(
                f"target.ranks.{role}",
                f"{rank} is not a rank.",
                f"A rank is a whole number from 1 up to {HIGHEST_RANK}; leave the role out (null) to skip it.",
            )
    if not (math.isfinite(target.alpha) and target.alpha > 0):
        yield ConfigError("target.alpha", f"{target.alpha} scales nothing.", "Take a number above 0; 16 is usual.")
    if not 0 <= target.lora_dropout < 1:
        yield ConfigError(
            "target.lora_dropout", f"{target.lora_dropout} is not a probability below 1.", "Take 0 to 0.99."
        )


def _auto_problems(target: TargetConfig) -> Iterator[ConfigError]:
    auto = target.auto
    if auto.method is None:
        return
    if target.budget is None:
        yield ConfigError(
            "target.budget", f"auto.method={auto.method} needs one.", "Take 10M, or another strategy's: budget: qv_ffn"
        )
    if target.modules:
        yield ConfigError("target.modules", f"set together with target.auto.method={auto.method}.", "Leave one out.")
    if target.init is not Init.lora and target.init is not Init.eva:
        yield ConfigError(f"target.init={target.init}", "set together with target.auto.method.", "Leave one out.")
    if target.dora and auto.method is Auto.eva:
        yield ConfigError("target.dora", "set together with target.auto.method=eva.", "Leave one out.")
    yield from _at_least("target.auto.types", auto.types, 1, "module types that plop adapts")
    yield from _at_least("target.auto.prompts", auto.prompts, 1, "prompts that plop and eva read")
    if not 0 < auto.share <= 1:
        yield ConfigError("target.auto.share", f"{auto.share} is no share of the modules.", "Take 0.2, or up to 1.")


def _train_problems(train: TrainConfig) -> Iterator[ConfigError]:
    if not (math.isfinite(train.learning_rate) and train.learning_rate >= 0):
        yield ConfigError(
            "train.learning_rate", f"{train.learning_rate} is not a rate.", "Take 0 or more; 2e-4 is usual for 7B."
        )
    if not (math.isfinite(train.epochs) and train.epochs > 0):
        yield ConfigError("train.epochs", f"{train.epochs} passes over the data.", "Take a number above 0.")
    if not 0 <= train.warmup_ratio < 1:
        yield ConfigError("train.warmup_ratio", f"{train.warmup_ratio} is no share of the steps.", "Take 0 to 0.99.")
    if train.group_by_length and train.packing:
        yield ConfigError(
            "train.group_by_length", "set together with train.packing, which leaves no padding.", "Leave one out."
        )
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
    if train.save_minutes is not None and not (math.isfinite(train.save_minutes) and train.save_minutes >= 0):
        yield ConfigError(
            "train.save_minutes",
            f"{train.save_minutes} is no time between two checkpoints.",
            "Take a number from 0 up; leave it out (null) to keep the final adapter only.",
        )


def _model_problems(model: ModelConfig) -> Iterator[ConfigError]:
    if bool(model.path) == bool(model.package):
        yield ConfigError(
            "model.path",
            "set together with model.package." if model.path else "no model is named.",
            "Name one: model=smollm2, or model=hf model.path=HUB_ID_OR_FOLDER",
        )
    if model.trust_remote_code and not COMMIT.fullmatch(model.revision) and not is_local(model.path or ""):
        yield ConfigError(
            "model.revision",
            f"'{model.revision}' can change, and model.trust_remote_code=true runs what it holds.",
            "Name the commit that you have read, all 40 digits: model.revision=COMMIT",
        )
    if model.package_file and (model.package_file.startswith(("/", "~")) or ".." in model.package_file.split("/")):
        yield ConfigError("model.package_file", f"{model.package_file} leads out of the package.", "Name a file in it.")
    if model.package and not model.package_file:
        yield ConfigError("model.package_file", "is missing.", f"Name the GGUF file inside {model.package}.")


def _at_least(key: str, value: int | None, low: int, remedy: str) -> Iterator[ConfigError]:
    if value is not None and value < low:
        yield ConfigError(key, f"{value} is too small.", f"Take a whole number from {low} up: {remedy}.")
    if value is not None and value > HIGHEST:
        yield ConfigError(key, f"{value} is too large.", f"Take at most {HIGHEST}: {remedy}.")


def is_local(path: str) -> bool:
    """Whether `path` is meant as a folder on this machine, rather than a hub id such as org/name."""
    return os.path.isdir(os.path.expanduser(path)) or path.startswith(("/", ".", "~")) or path.count("/") > 1
