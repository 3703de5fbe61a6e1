"""A plan becomes an adapter on a base model, and what was built is compared with what was planned."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from lorascope.config import AlphaPolicy
from lorascope.errors import PlanError
from lorascope.targets.module_map import linear_modules
from lorascope.targets.plan import PlannedModule, TargetPlan

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

ADAPTER = "default"  # PEFT's own name for the only adapter


def attach(base: PreTrainedModel, plan: TargetPlan, seed: int) -> PeftModel:
    """Put the planned adapter on `base`, in place; A starts from `seed`, B from zero, both in float32.

    Raises:
        PlanError: when PEFT built anything but the plan.
    """
    from peft import get_peft_model

    config = lora_config(plan, [path for path, _, _ in linear_modules(base)])
    # GPT-2's Conv1D keeps its weight transposed; PEFT would find out by itself, and warn
    config.fan_in_fan_out = any(_is_conv1d(base, planned.module) for planned in plan.modules)
    model = get_peft_model(base, config)
    verify(model, plan)
    initialise(model, plan, seed)
    keep_adapter_in_float32(model)
    return model


def _is_conv1d(base: PreTrainedModel, path: str) -> bool:
    try:
        return type(base.get_submodule(path)).__name__ == "Conv1D"
    except AttributeError:  # the plan names what is not there: `verify` will say so
        return False


def lora_config(plan: TargetPlan, linear_paths: list[str]) -> LoraConfig:
    """The plan in PEFT's words, as short as it can be said: leaf names where they mean exactly the plan."""
    from peft import LoraConfig

    names = {planned.module: planned.module for planned in plan.modules}
    leaves = {planned.module.rpartition(".")[2] for planned in plan.modules}
    if {path for path in linear_paths if path.rpartition(".")[2] in leaves} == set(names):
        by_leaf = {(planned.module.rpartition(".")[2], planned.rank, planned.alpha) for planned in plan.modules}
        if len(by_leaf) == len(leaves):
            names = {path: path.rpartition(".")[2] for path in names}
    rank = Counter(planned.rank for planned in plan.modules).most_common(1)[0][0]
    alpha = Counter(planned.alpha for planned in plan.modules).most_common(1)[0][0]
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        use_rslora=plan.alpha_policy is AlphaPolicy.rslora,
        lora_dropout=plan.lora_dropout,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=sorted(set(names.values())),
        # without alpha_pattern, PEFT would keep one alpha whatever the rank
        rank_pattern={names[p.module]: p.rank for p in plan.modules if p.rank != rank},
        alpha_pattern={names[p.module]: p.alpha for p in plan.modules if p.alpha != alpha},
    )


def adapted_modules(model: PeftModel) -> dict[str, Any]:
    """PEFT's LoRA layers by the path of the base module that they wrap."""
    from peft.tuners.lora import LoraLayer

    prefix = "base_model.model."
    return {
        path.removeprefix(prefix): module for path, module in model.named_modules() if isinstance(module, LoraLayer)
    }


def verify(model: PeftModel, plan: TargetPlan) -> None:
    """Compare what was built with what was planned: paths, shapes, scales, and the count of what is trained.

    Raises:
        PlanError: naming the first modules that differ.
    """
    built = {path: _built(layer) for path, layer in adapted_modules(model).items()}
    wanted = {planned.module: _planned(planned) for planned in plan.modules}
    if built != wanted:
        lines = [
            f"{path}: planned {wanted.get(path, 'nothing')}, built {built.get(path, 'nothing')}"
            for path in sorted(built.keys() | wanted.keys())
            if built.get(path) != wanted.get(path)
        ]
        raise PlanError(
            f"target={plan.strategy}",
            f"the adapter that was built differs from its plan in {len(lines)} modules.\n    "
            + "\n    ".join(lines[:5]),
            "The weights are of another shape than the architecture that was planned with: mend model.architecture.",
        )
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if trained != plan.trainable_parameters:
        raise PlanError(
            f"target={plan.strategy}",
            f"{trained:,} parameters would be trained, {plan.trainable_parameters:,} were planned.",
            "This is a fault of lorascope; please report it with the model's name.",
        )


def _built(layer: Any) -> tuple[int, int, int, float]:
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    rank = a.shape[0]
    return (rank if b.shape[1] == rank else -1), a.shape[1], b.shape[0], round(layer.scaling[ADAPTER], 9)


def _planned(planned: PlannedModule) -> tuple[int, int, int, float]:
    return planned.rank, planned.d_in, planned.d_out, round(planned.scale, 9)


def initialise(model: PeftModel, plan: TargetPlan, seed: int) -> None:
    """Give every A the values that (seed, layer, role) stand for, and every B zeros."""
    import torch

    layers = adapted_modules(model)
    with torch.no_grad():
        for planned in plan.modules:
            layer = layers[planned.module]
            a = layer.lora_A[ADAPTER].weight
            a.copy_(initial_a(seed, planned.layer, planned.role, planned.rank, planned.d_in))
            layer.lora_B[ADAPTER].weight.zero_()


def initial_a(seed: int, layer: int, role: str, rank: int, d_in: int) -> torch.Tensor:
    """A's initial values, shape (rank, d_in), float32 on the CPU.

    PEFT's distribution, uniform within 1 / sqrt(d_in), but drawn from a stream of its own for each (seed, layer,
    role), row after row: two strategies that share a module start it alike, and rank 4 is a prefix of rank 8.
    """
    import torch

    key = hashlib.sha256(f"{seed}/{layer}/{role}".encode()).digest()
    stream = torch.Generator(device="cpu").manual_seed(int.from_bytes(key[:8], "big") % 2**63)
    rows = [torch.rand(d_in, generator=stream, dtype=torch.float32) for _ in range(rank)]
    return (2 * torch.stack(rows) - 1) / math.sqrt(d_in)


def keep_adapter_in_float32(model: PeftModel) -> None:
    """One adapter dtype for all arms: TRL turns adapters on a quantized base to bfloat16 and leaves others."""
    import torch

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
