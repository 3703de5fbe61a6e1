"""The names under `train.sft`: those of TRL's SFTConfig that a run obeys, and why the others are refused."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import typing
from types import NoneType, UnionType
from typing import Any

from lorascope.config.schema import TrainConfig
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
# what SFTConfig takes and a run here does without -> what counts in its place
NO_EFFECT = {
    "completion_only_loss assistant_only_loss": "What is learned follows from the data's format; "
    "see lorascope preview.",
    "chat_template_path eos_token pad_token": "They are the tokenizer's: change its files in the model's folder.",
    "dataset_text_field dataset_kwargs dataset_num_proc truncation_mode eval_packing length_column_name label_names "
    "remove_unused_columns": "Rows are prepared before the trainer: set dataset.*",
    "per_device_eval_batch_size prediction_loss_only eval_on_start eval_delay eval_do_concat_batches "
    "eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics bf16_full_eval "
    "fp16_full_eval": "The evaluation is lorascope's own: set evaluation.batch_tokens, train.eval_steps",
    "save_only_model save_on_each_node save_total_limit enable_jit_checkpoint load_best_model_at_end "
    "metric_for_best_model greater_is_better ignore_data_skip restore_callback_states_from_checkpoint "
    "resume_from_checkpoint": "Checkpoints are lorascope's own: set train.save_steps, train.save_minutes, "
    "train.keep_best, resume",
    "ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp "
    "fsdp_config deepspeed parallelism_config accelerator_config average_tokens_across_devices local_rank "
    "log_on_each_node log_level_replica": "A run is one process.",
    "auto_find_batch_size": "It would change the experiment unseen: set train.batch_size",
    "include_num_input_tokens_seen": "Tokens are always counted.",
    "do_train do_eval do_predict": "A run always trains and evaluates; dry_run=true does neither.",
    "trackio_space_id trackio_bucket_id trackio_static_space_id": "Set logger.trackio.*",
}
WITHOUT_EFFECT = {name: why for names, why in NO_EFFECT.items() for name in names.split()}
SAMPLING, GROUPED = "train_sampling_strategy", "group_by_length"  # SFTConfig's; its other values stay the user's
# these would send the run away, or put a token into its record
HUB = ("push_to_hub", "hub_")
PLAIN = {bool, int, float, str, dict, list, NoneType}  # other kinds are left to SFTConfig


@functools.cache
def sft_fields() -> dict[str, Any]:
    """SFTConfig's fields and their types."""
    from lorascope.console import hush

    hush()
    from trl import SFTConfig

    return {field.name: field.type for field in dataclasses.fields(SFTConfig)}


def check_sft(train: TrainConfig) -> None:
    """Refuse a name that SFTConfig lacks, a value of another kind, and what is set elsewhere or has no effect."""
    for name, value in train.sft.items():
        if refusal := _refusal(name, value, train):
            raise ConfigError(f"train.sft.{name}", *refusal)


def _refusal(name: str, value: Any, train: TrainConfig) -> tuple[str, str] | None:
    """What is wrong with a setting, and the remedy."""
    if name in ELSEWHERE:
        return "would make one setting in two places.", f"Set {ELSEWHERE[name]} instead."
    if name in WITHOUT_EFFECT:
        return "would have no effect.", WITHOUT_EFFECT[name]
    if name.startswith(HUB):
        return (
            "is not taken: a run stays on this machine, and its record must hold no token.",
            "Set HF_TOKEN in the environment; send the adapter's folder later with: hf upload",
        )
    if name == "packing_strategy" and value == "wrapped":
        return "cuts rows in two, which then see other rows.", "Leave it out: train.packing=true"
    if name == SAMPLING and (value == GROUPED or train.group_by_length):
        return "would make one setting in two places.", "Set train.group_by_length instead."
    if name not in sft_fields():
        near = [f"sft.{one}" for one in difflib.get_close_matches(name, sft_fields(), n=1)]
        meant = [name] if hasattr(train, name) else near
        hint = f"Did you mean train.{meant[0]}?" if meant else "Its names are those of TRL's SFTConfig."
        return f"SFTConfig has no '{name}'.", hint
    kind = sft_fields()[name]
    if _fits(value, kind):
        return None
    return f"{value!r} is not what SFTConfig takes.", f"It takes: {kind.__name__ if isinstance(kind, type) else kind}."


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a plain value fits an annotation of plain kinds."""
    union = typing.get_origin(annotation) in (typing.Union, UnionType)
    kinds = {typing.get_origin(one) or one for one in (typing.get_args(annotation) if union else (annotation,))}
    if not kinds <= PLAIN or (isinstance(value, int) and not isinstance(value, bool) and float in kinds):
        return True
    return type(value) in kinds and not (isinstance(value, float) and not math.isfinite(value))
