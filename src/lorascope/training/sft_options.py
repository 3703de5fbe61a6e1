"""The settings under `train.sft`, checked against TRL's own SFTConfig by name and kind, without importing torch."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
import math
from pathlib import Path
from typing import Any

from lorascope.config import TrainConfig
from lorascope.errors import ConfigError

# SFTConfig's name -> the setting here that decides it
ELSEWHERE = {
    "learning_rate": "train.learning_rate",
    "num_train_epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "per_device_train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.gradient_accumulation",
    "max_length": "train.max_length",
    "packing": "train.packing",
    "warmup_steps": "train.warmup_ratio",
    "lr_scheduler_type": "train.scheduler",
    "eval_steps": "train.eval_steps",
    "eval_strategy": "train.eval_steps",
    "save_steps": "train.save_steps",
    "save_strategy": "train.save_steps",
    "logging_steps": "train.logging_steps",
    "logging_strategy": "train.logging_steps",
    "seed": "seed",
    "data_seed": "seed",
    "output_dir": "runs_dir",
    "report_to": "logger",
    "run_name": "logger",
    "project": "logger.wandb.project",
    "use_cpu": "device",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "trust_remote_code": "model",
    "model_init_kwargs": "model",
    "gradient_checkpointing": "train.sft.activation_checkpointing",
    "gradient_checkpointing_kwargs": "train.sft.activation_checkpointing_kwargs",
}
SAMPLING, GROUPED = "train_sampling_strategy", "group_by_length"  # SFTConfig's; its other values stay the user's
# these would send the run away, or put a token into its record
HUB = ("push_to_hub", "hub_")
SOURCES = (("trl", "trainer/sft_config.py"), ("trl", "trainer/base_config.py"), ("transformers", "training_args.py"))
KINDS = {"bool": (bool,), "int": (int,), "float": (int, float), "str": (str,), "dict": (dict,), "list": (list,)}


@functools.cache
def sft_fields() -> dict[str, str]:
    """SFTConfig's fields and their annotations, read from the sources of the installed TRL and transformers."""
    fields: dict[str, str] = {}
    for package, file in SOURCES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ConfigError("train.sft", f"the package {package} is not installed.", "Run: make setup")
        tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                for item in node.body:
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                        fields.setdefault(item.target.id, ast.unparse(item.annotation))
    return {name: kind for name, kind in fields.items() if not name.startswith("_")}


def check_sft(train: TrainConfig) -> None:
    """Refuse a name that SFTConfig lacks, a value of another kind, a setting made elsewhere, and the hub's.

    Raises:
        ConfigError: for the first of these.
    """
    for name, value in train.sft.items():
        key = f"train.sft.{name}"
        if name in ELSEWHERE:
            raise ConfigError(key, "would make one setting in two places.", f"Set {ELSEWHERE[name]} instead.")
        if name.startswith(HUB):
            raise ConfigError(
                key,
                "is not taken: a run stays on this machine, and its record must hold no token.",
                "Set HF_TOKEN in the environment; send the adapter's folder later with: hf upload",
            )
        if name == "packing_strategy" and value == "wrapped":
            raise ConfigError(key, "cuts rows in two, which then see other rows.", "Leave it out: train.packing=true")
        if name == SAMPLING and (value == GROUPED or train.group_by_length):
            raise ConfigError(key, "would make one setting in two places.", "Set train.group_by_length instead.")
        kind = sft_fields().get(name)
        if kind is None:
            near = difflib.get_close_matches(name, sft_fields(), n=1)
            hint = f"Did you mean train.sft.{near[0]}?" if near else "Its names are those of TRL's SFTConfig."
            hint = f"Did you mean train.{name}?" if hasattr(train, name) else hint
            raise ConfigError(key, f"SFTConfig has no '{name}'.", hint)
        if not _fits(value, kind):
            raise ConfigError(key, f"{value!r} is not what SFTConfig takes.", f"It takes: {kind}.")


def _fits(value: Any, annotation: str) -> bool:
    """Whether a plain value fits a simple annotation; one that is not simple is left to SFTConfig."""
    parts = [part.strip().partition("[")[0] for part in annotation.replace("'", "").split("|")]
    if value is None:
        return "None" in parts or any(part not in KINDS for part in parts)
    if any(part not in KINDS and part != "None" for part in parts):
        return True
    allowed = tuple(kind for part in parts for kind in KINDS.get(part, ()))
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, allowed) and not (isinstance(value, bool) and bool not in allowed)
