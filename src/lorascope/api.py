"""For one's own scripts and notebooks: what the commands do, as functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorascope.compose import compose, config_dir
from lorascope.config import ATTENTION_ROLES, ModelConfig
from lorascope.targets.module_map import inspect_model
from lorascope.targets.roles import group_of

if TYPE_CHECKING:
    from peft import LoraConfig


def model_presets() -> list[str]:
    """The names under conf/model that stand for one model."""
    return sorted(path.stem for path in (config_dir() / "model").glob("*.yaml") if path.stem != "hf")


def model_config(name: str) -> ModelConfig:
    """The config of a preset, or of any model by its hub id or local folder.

    Raises:
        ConfigError: when the name can be neither.
    """
    if name in model_presets():
        return compose([f"model={name}"]).model
    return compose(["model=hf", f"model.path='{name}'"]).model


def list_trainable_modules(model_name: str) -> dict[str, list[str]]:
    """The paths of a model's attention and FFN projections, by layer, without loading weights.

    Args:
        model_name: a preset's name (`mistral7b`), a hub id, or a local folder.

    Returns:
        `{"attention": [...], "ffn": [...]}`; a fused module is listed once.

    Raises:
        ConfigError, ModelError: when the model cannot be found or read.
    """
    groups: dict[str, list[str]] = {"attention": [], "ffn": []}
    for projection in inspect_model(model_config(model_name)).projections:
        paths = groups[group_of(projection.role)]
        if projection.module not in paths[-len(projection.fused_with) - 1 :]:
            paths.append(projection.module)
    return groups


def create_attention_lora_config(rank: int = 8, alpha: float = 16, model_name: str | None = None) -> LoraConfig:
    """PEFT's config for an adapter on every attention projection.

    Args:
        rank: of every module.
        alpha: scale is alpha / rank.
        model_name: a preset's name, hub id or folder, to take the names of; without it those of LLaMA, Mistral,
            Qwen and their like: q_proj, k_proj, v_proj, o_proj.
    """
    from peft import LoraConfig

    if rank < 1:
        raise ValueError(f"rank: {rank} is not a rank; take a whole number from 1 up")
    leaves = [f"{role}_proj" for role in ATTENTION_ROLES]
    if model_name is not None:
        paths = list_trainable_modules(model_name)["attention"]
        # parent and leaf, since GPT-2 calls a projection of its FFN c_proj as well
        leaves = list(dict.fromkeys(".".join(path.split(".")[-2:]) for path in paths))
    return LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.05, target_modules=leaves, bias="none", task_type="CAUSAL_LM"
    )
