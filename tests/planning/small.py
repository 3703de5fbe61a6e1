"""Small models of many kinds, with an adapter, and their shapes."""

from __future__ import annotations

from typing import Any

from lorascope.config.schema import Attention, Device, Dtype, Ranks, Scheme, TargetConfig
from lorascope.planning.step_spec import StepSpec
from lorascope.targets.attach import attach
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules
from lorascope.targets.plan import TargetPlan

ROWS, LENGTH = 3, 24
SIZES = {
    "vocab_size": 300, "hidden_size": 96, "intermediate_size": 208, "num_hidden_layers": 6, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
OTHERWISE: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 96, "n_layer": 6, "n_head": 6, "n_positions": 512, "n_inner": 208},
    "gpt_neox": {"num_key_value_heads": 6, "head_dim": None},
    "phi": {"num_key_value_heads": 6, "head_dim": None},
    "phi3": {"head_dim": None},
    "mixtral": EXPERTS,
    "qwen3_moe": EXPERTS,
}
HF_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")


def small(kind: str, attention: str = "sdpa", **changes: Any) -> Any:
    """A model of this type, a few hundred thousand parameters."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = SIZES | OTHERWISE.get(kind, {}) | changes
    if kind == "gpt2":
        sizes = {name: value for name, value in sizes.items() if name not in (*HF_SIZES, "head_dim")}
    config = AutoConfig.for_model(kind, **{name: value for name, value in sizes.items() if value is not None})
    # of the implementations of experts, the one that is made of plain products
    experts = {"experts_implementation": "eager"} if kind in ("mixtral", "qwen3_moe") else {}
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, **experts)
    return model.requires_grad_(False)


def planned(model: Any, ranks: dict[str, int], **settings: Any) -> TargetPlan:
    """A plan on it."""
    target = TargetConfig(name="test", ranks=Ranks(**ranks), **settings)
    return plan_targets(target, map_modules(model, model.config.model_type, ""))


def adapted(model: Any, plan: TargetPlan, *, checkpointing: bool = False, reentrant: bool = False) -> Any:
    """The model with the plan's adapter, ready to train as the trainer makes it."""
    adapter = attach(model, plan, 0)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
        if not reentrant:  # it has just made the embeddings' output ask for a gradient
            model.disable_input_require_grads()
    return adapter.train()


def setting(**changes: Any) -> StepSpec:
    """A setting on the CPU, every token with a loss."""
    values: dict[str, Any] = {
        "device": Device.cpu,
        "dtype": Dtype.float32,
        "scheme": Scheme.none,
        "double_quant": False,
        "attention": Attention.sdpa,
        "batch_size": ROWS,
        "accumulation": 1,
        "length": LENGTH,
        "supervised": LENGTH,
        "checkpointing": False,
        "optimizer": "adamw_torch",
    }
    return StepSpec(**values | changes)
