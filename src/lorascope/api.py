"""Functions for scripts and notebooks: what the commands do."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from lorascope.compose import compose
from lorascope.compose import config_dir as shipped_configs
from lorascope.config.schema import ModelConfig
from lorascope.targets.module_map import inspect_model, read_model
from lorascope.targets.roles import group_of

if TYPE_CHECKING:
    from peft import LoraConfig

    from lorascope.records.record import RunRecord
    from lorascope.targets.plan import TargetPlan


def plan(*overrides: str, config_dir: str | Path | None = None) -> TargetPlan:
    """What `python train.py OVERRIDES` would train, without loading weights.

    Args:
        overrides: the command's words: `plan("target=qv_ffn", "model=mistral7b")`.
        config_dir: a folder of your own groups.

    Returns:
        The plan: `trainable_parameters`, `modules` with rank, alpha and scale, `entry()` as plain values.

    Raises:
        LorascopeError: place, value and remedy.
    """
    from lorascope.console import hush
    from lorascope.targets.build_plan import plan_targets

    config = compose(overrides, config_dir)
    hush()
    return plan_targets(config.target, inspect_model(config.model))


def train(*overrides: str, config_dir: str | Path | None = None) -> RunRecord | None:
    """One run, as `python train.py OVERRIDES` makes it; a run that is done is found, not repeated.

    Args:
        overrides: the command's words: `train("target=q_v", "train.epochs=2", "seed=1")`. No sweeps.
        config_dir: a folder of your own groups.

    Returns:
        The run's record: `metrics`, `plan`, `timing`, `memory`, …; None for `dry_run=true`.

    Raises:
        LorascopeError: place, value and remedy; the record then says what happened.
    """
    from lorascope.run import execute

    return execute(compose(overrides, config_dir))


def load_runs(folder: str | Path = "runs") -> list[RunRecord]:
    """The records of all runs below a folder; one that is damaged is warned of and left out.

    Raises:
        RunError: when there is no such folder.
    """
    from lorascope.records.store import load_runs as load

    records, damaged = load(folder)
    for error in damaged:
        warnings.warn(str(error), stacklevel=2)
    return records


def model_presets() -> list[str]:
    """The names under conf/model that stand for one model."""
    return sorted(path.stem for path in (shipped_configs() / "model").glob("*.yaml") if path.stem != "hf")


def model_config(name: str) -> ModelConfig:
    """The config of a preset, or of any model by its hub id or local folder.

    Raises:
        ConfigError: when the name can be neither.
    """
    if name in model_presets():
        return compose([f"model={name}"]).model
    return compose(["model=hf", f"model.path='{name}'"]).model


def list_trainable_modules(model_name: str) -> dict[str, list[str]]:
    """The paths of a model's attention, FFN and mixer projections, by layer, without loading weights.

    Args:
        model_name: a preset's name (`mistral7b`), a hub id, or a local folder.

    Returns:
        `{"attention": [...], "ffn": [...]}`, and `mixer` where a model has recurrent ones; a fused module once.

    Raises:
        ConfigError, ModelError: when the model cannot be found or read.
    """
    groups: dict[str, list[str]] = {"attention": [], "ffn": []}
    for projection in inspect_model(model_config(model_name)).projections:
        paths = groups.setdefault(group_of(projection.role), [])
        if projection.module not in paths[-len(projection.fused_with) - 1 :]:
            paths.append(projection.module)
    return groups


def create_attention_lora_config(rank: int = 8, alpha: float = 16, model_name: str | None = None) -> LoraConfig:
    """PEFT's config for an adapter on every attention projection; fused ones are adapted as a whole.

    Args:
        rank: of every module.
        alpha: scale is alpha / rank.
        model_name: a preset's name, hub id or folder; by default the names of LLaMA, Mistral, Qwen and their like.

    Raises:
        LorascopeError: when the model cannot be found or read, or rank or alpha cannot be.
    """
    from lorascope.targets.attach import lora_config
    from lorascope.targets.build_plan import plan_targets
    from lorascope.targets.weights import weights_of

    modules, model = read_model(model_config(model_name or "smollm2"))
    ranks = f"target.ranks={{q: null, v: null, attention: {rank}}}"
    target = compose(["target=attention", ranks, f"target.alpha={alpha}", "target.fused=native"]).target
    return lora_config(plan_targets(target, modules), [weight.name for weight in weights_of(model)])
