"""Check a config for values that no run can have."""

from __future__ import annotations

import math
import os
import re

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

HIGHEST = 2**31 - 1  # of what is counted


def check(config: RunConfig) -> None:
    """Refuse the first value that no run can have."""
    check_target(config.target)
    _check_train(config.train)
    _check_rules(config)
    _check_model(config.model)
    check_dataset(config.dataset)
    _must("seed", config.seed, 0 <= config.seed < 2**32, "be from 0 to 4294967295", "For example seed=0.")
    for tag in config.logger.tags:
        _must("logger.tags", tag, isinstance(tag, str), "be words", "For example logger.tags=[one,two].")
    runs_dir = os.path.expanduser(config.runs_dir)
    usable = bool(runs_dir.strip()) and "\0" not in runs_dir and not runs_dir.startswith("~")
    _must("runs_dir", f"'{config.runs_dir}'", usable, "be a folder", "For example runs_dir=runs.")
    mode, modes = config.logger.wandb.mode, ("auto", "online", "offline")
    _must("logger.wandb.mode", f"'{mode}'", mode in modes, f"be one of {', '.join(modes)}", "The default is auto.")


def check_dataset(dataset: DatasetConfig) -> None:
    """The same for a data set alone."""
    for key in ("path", "eval_path"):
        value = getattr(dataset, key)
        paths = value if isinstance(value, list) else [value]
        if value is not None and not (paths and all(isinstance(one, str) for one in paths)):
            raise ConfigError(f"dataset.{key}", f"must be a path or a list of paths (got {value!r}).", "Name files.")
    for key, share in (("eval_share", dataset.eval_share), ("validation_share", dataset.validation_share)):
        remedy = "It is a share of the rows; 0.1 is usual."
        _must(f"dataset.{key}", share, share is None or 0 < share < 1, "be between 0 and 1", remedy)
    if dataset.validation_share is not None and dataset.streaming:
        raise _clash("dataset.validation_share", "dataset.streaming, which reads rows once", "dataset.streaming=false")
    for key in ("max_train_samples", "max_eval_samples"):
        _count(f"dataset.{key}", getattr(dataset, key), 1, "Leave it out for all rows.")


def check_target(target: TargetConfig) -> None:
    """The same for a strategy alone."""
    given = target.ranks.given()
    chosen = {
        "target.ranks": bool(given),
        "target.peft_default": target.peft_default is not None,
        "target.auto.method": target.auto.method is not None,
    }
    set_together = [key for key, is_set in chosen.items() if is_set]
    if len(set_together) > 1:
        raise _clash(set_together[0], " and ".join(set_together[1:]), "one of the three")
    if not set_together and not target.modules:
        what = "must give at least one role a rank, or nothing would be trained."
        raise ConfigError("target.ranks", what, "For example target.ranks.q=8.")
    _count("target.peft_default", target.peft_default, 1, "It is the rank of every module.")
    _check_auto(target)
    for key, ranks in (("target.modules", target.modules), ("target.ranks", given)):
        for name, rank in ranks.items():
            well = isinstance(rank, int) and 1 <= rank <= HIGHEST_RANK
            remedy = "Leave it out (null) to adapt nothing there."
            _must(f"{key}.{name}", rank, well, f"be a whole number from 1 to {HIGHEST_RANK}", remedy)
    remedy = "For example 10M, 500k, or the name of a strategy."
    _must("target.budget", target.budget, target.budget is None or amount(target.budget) != 0, "be > 0", remedy)
    if target.dora and target.init is not Init.lora:
        raise _clash("target.dora", f"target.init={target.init}", "one, to compare one change at a time")
    _must("target.alpha", target.alpha, _positive(target.alpha), "be > 0", "16 is usual.")
    dropout = target.lora_dropout
    _must("target.lora_dropout", dropout, 0 <= dropout < 1, "be in [0, 1)", "0.05 is usual.")


def _check_auto(target: TargetConfig) -> None:
    auto = target.auto
    if auto.method is None:
        return
    here = f"target.auto.method={auto.method}"
    if target.budget is None:
        raise ConfigError("target.budget", f"must be given with {here}.", "For example 10M, or budget: qv_ffn.")
    for key, clashes in (
        ("target.modules", target.modules),
        (f"target.init={target.init}", target.init not in (Init.lora, Init.eva)),
        ("target.dora", target.dora and auto.method is Auto.eva),
    ):
        if clashes:
            raise _clash(key, here)
    _count("target.auto.types", auto.types, 1, "It is the number of module types that plop adapts.")
    _count("target.auto.prompts", auto.prompts, 1, "It is the number of prompts that plop and eva read.")
    _must("target.auto.share", auto.share, 0 < auto.share <= 1, "be in (0, 1]", "0.2 is usual.")


def _check_train(train: TrainConfig) -> None:
    rate, epochs, ratio, minutes = train.learning_rate, train.epochs, train.warmup_ratio, train.save_minutes
    _must("train.learning_rate", rate, rate is None or rate == 0 or _positive(rate), "be >= 0", "2e-4 is usual for 7B.")
    _must("train.epochs", epochs, _positive(epochs), "be > 0", "For example train.epochs=1.")
    _must("train.warmup_ratio", ratio, 0 <= ratio < 1, "be in [0, 1)", "0.05 is usual.")
    if train.group_by_length and train.packing:
        raise _clash("train.group_by_length", "train.packing, which leaves no padding")
    for key, low, remedy in (
        ("max_steps", 1, "Leave it out (null) to train for train.epochs."),
        ("batch_size", 1, "It is the number of rows per step and device."),
        ("gradient_accumulation", 1, "It is the number of batches per step."),
        ("logging_steps", 1, "It is the number of steps between two log lines."),
        ("eval_steps", 1, "Leave it out (null) to evaluate before and after training only."),
        ("eval_samples", 1, "It is the number of eval items that metrics are measured on while training."),
        ("save_steps", 1, "Leave it out (null) to save by train.save_minutes."),
        ("max_length", 2, "It is the largest number of tokens in a row."),
    ):
        _count(f"train.{key}", getattr(train, key), low, remedy)
    remedy = "Leave it out (null) to save no checkpoints by time."
    _must("train.save_minutes", minutes, minutes in (None, 0) or _positive(minutes), "be >= 0", remedy)


def _check_rules(config: RunConfig) -> None:
    """What is measured while training, what is kept by it, and what ends the training."""
    train = config.train
    known = ["eval_loss", *config.dataset.metrics] if config.evaluation.tasks else ["eval_loss"]
    known += ["forgetting_kl", "forgetting_loss"] if config.evaluation.forgetting.texts else []
    there = f"On this data there are: {', '.join(known)}."
    asked = [("train.eval_metrics", name) for name in train.eval_metrics]
    if train.keep_best not in (False, True, None):
        asked.append(("train.keep_best", train.keep_best))
    if train.stop_early.metric is not None:
        asked.append(("train.stop_early.metric", train.stop_early.metric))
    for key, name in asked:
        _must(key, repr(name), name in known, "be a metric that is measured", there)
    remedy = "It is the number of evaluations to wait for a better value."
    _count("train.stop_early.patience", train.stop_early.patience, 1, remedy)
    share = train.eval_share
    _must("train.eval_share", share, 0 < share <= 1, "be in (0, 1]", "0.05 is usual.")
    names = (
        ("keep_best", train.keep_best),
        ("stop_early", train.stop_early.metric),
        ("eval_metrics", train.eval_metrics),
    )
    for name, given in names:
        if given and train.eval_steps is None:
            what = "must come with train.eval_steps: that is when it is looked at."
            raise ConfigError(f"train.{name}", what, "Say how often: train.eval_steps=50")


def _check_model(model: ModelConfig) -> None:
    if bool(model.path) == bool(model.package):
        what = "cannot be combined with model.package." if model.path else "must name a model."
        raise ConfigError("model.path", what, "For example model=smollm2, or model=hf model.path=HUB_ID_OR_FOLDER.")
    if model.trust_remote_code and not re.fullmatch("[0-9a-f]{40}", model.revision) and not is_local(model.path or ""):
        raise ConfigError(
            "model.revision",
            f"must be a full commit with model.trust_remote_code=true (got '{model.revision}'): its code is run here.",
            "Name the commit that you have read, all 40 digits: model.revision=COMMIT",
        )
    file = model.package_file or ""
    inside = not file.startswith(("/", "~")) and ".." not in file.split("/")
    _must("model.package_file", file, inside, "lie inside the package", "Name a file of the package.")
    if model.package and not file:
        raise ConfigError("model.package_file", "must be given.", f"Name the GGUF file inside {model.package}.")


def _must(key: str, value: object, well: bool, rule: str, remedy: str) -> None:
    if not well:
        finite = not isinstance(value, float) or math.isfinite(value)
        raise ConfigError(key, f"must {rule if finite else 'be a finite number'} (got {value}).", remedy)


def _positive(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0


def _count(key: str, value: int | None, low: int, remedy: str) -> None:
    if value is not None:
        _must(key, value, value >= low, f"be >= {low}", remedy)
        _must(key, value, value <= HIGHEST, f"be <= {HIGHEST}", remedy)


def _clash(key: str, other: str, leave_out: str = "one") -> ConfigError:
    return ConfigError(key, f"cannot be combined with {other}.", f"Set {leave_out}.")


def is_local(path: str) -> bool:
    """Whether `path` is meant as a folder on this machine, rather than a hub id such as org/name."""
    return os.path.isdir(os.path.expanduser(path)) or path.startswith(("/", ".", "~")) or path.count("/") > 1
