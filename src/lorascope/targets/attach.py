"""Build the adapter with PEFT and verify it against the plan."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from lorascope.compat import taken_for_experts
from lorascope.config.schema import AlphaPolicy, Init
from lorascope.errors import PlanError
from lorascope.targets.adapter_parts import ADAPTER, initialise, keep_blocks, own_biases
from lorascope.targets.plan import Site, TargetPlan
from lorascope.targets.weights import base_path, weights_of

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel


def attach(base: PreTrainedModel, plan: TargetPlan, seed: int) -> PeftModel:
    """Put the planned adapter on `base`, in place; A starts from `seed`, B from zero, all in float32.

    With `init: pissa` PEFT decides the start, and moves the base's weights; with `eva` and `loftq`, which need data or
    the weights as they were, `start_adapter` does, after this.

    Raises:
        PlanError: when PEFT built anything but the plan.
    """
    from peft import get_peft_model

    config = lora_config(plan, [weight.name for weight in weights_of(base)], _taken_for_experts(base, plan))
    with warnings.catch_warnings():
        # PEFT looks for the patterns' names among modules alone; `verify` looks at what was built
        warnings.filterwarnings("ignore", r"The following (rank|alpha)_pattern keys did not match")
        warnings.filterwarnings("ignore", r".*tie_word_embeddings", UserWarning)
        warnings.filterwarnings("ignore", r".*low_cpu_mem_usage", UserWarning)  # advice for EVA; the components come
        model = get_peft_model(base, config)
    verify(model, plan)
    layers = adapted_modules(model)
    if plan.init in (Init.lora, Init.loftq):
        initialise(layers, plan, seed)
    own_biases(model, plan.biases)
    keep_adapter_in_float32(model)
    keep_blocks(layers, plan)
    _check_reload(model, plan)
    return model


def _taken_for_experts(base: PreTrainedModel, plan: TargetPlan) -> list[str]:
    """Modules that PEFT would take for experts by their name alone; an error where they cannot be named otherwise.

    In types whose experts became stacks with transformers 5, PEFT reads `gate_proj` in a config as the stack, even
    where a dense layer or a shared expert is meant. Their weights can be named as parameters, if they are matrices.
    """
    renamed = taken_for_experts(base.config.model_type)
    found = [site.name for site in plan.sites if site.experts == 1 and site.name.rpartition(".")[2] in renamed]
    for name in found:
        quantized = not base.get_submodule(name).weight.is_floating_point()
        if quantized or plan.lora_dropout:
            raise PlanError(
                "target.ranks",
                f"PEFT takes {name} for experts by its name, and "
                + ("its quantized weight cannot be named otherwise." if quantized else "cannot drop out its inputs."),
                "Take quantization=none, or roles of the attention." if quantized else "Take target.lora_dropout=0.",
            )
    return found


def lora_config(plan: TargetPlan, names: list[str], as_parameters: Collection[str] = ()) -> LoraConfig:
    """The plan in PEFT's words, as short as it can be said: leaf names where they mean exactly the plan.

    Args:
        names: every weight of the model that could be adapted, as `weights_of` names them.
        as_parameters: modules to be named by their weight.
    """
    from peft import EvaConfig, LoraConfig

    sites = plan.sites
    stacks = {site.name for site in sites if site.experts > 1} | set(as_parameters)
    said = {site.name: f"{site.name}.weight" if site.name in as_parameters else site.name for site in sites}
    leaf = {site.name: site.name.rpartition(".")[2] for site in sites}
    leaves = set(leaf.values())
    alike = {(leaf[site.name], site.rank, site.alpha) for site in sites}
    plain = not stacks and not any(one.isdigit() for one in leaves)  # PEFT would take a block's number for a leaf
    if (
        plain
        and len(alike) == len(leaves)
        and {name for name in names if name.rpartition(".")[2] in leaves} == set(leaf)
    ):
        said = leaf
    rank = Counter(site.rank for site in sites).most_common(1)[0][0]
    alpha = Counter(site.alpha for site in sites).most_common(1)[0][0]
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        use_rslora=plan.alpha_policy is AlphaPolicy.rslora,
        use_dora=plan.dora,
        init_lora_weights={Init.pissa: "pissa", Init.eva: "eva"}.get(plan.init, True),
        eva_config=EvaConfig(rho=1.0) if plan.init is Init.eva else None,  # the plan has decided the ranks
        lora_dropout=plan.lora_dropout,
        bias=str(plan.bias),
        # GPT-2's Conv1D keeps its weight transposed; PEFT would find out by itself, and warn
        fan_in_fan_out=any(part.transposed for part in plan.modules if part.experts == 1),
        task_type="CAUSAL_LM",
        target_modules=sorted({said[name] for name in said if name not in stacks}),
        target_parameters=sorted(said[name] for name in stacks) or None,
        # without alpha_pattern, PEFT would keep one alpha whatever the rank
        rank_pattern={said[site.name]: site.rank for site in sites if site.rank != rank},
        alpha_pattern={said[site.name]: site.alpha for site in sites if site.alpha != alpha},
    )


def adapted_modules(model: PeftModel) -> dict[str, Any]:
    """PEFT's LoRA layers by the path of the base module that they wrap, an expert stack's parameter behind it."""
    from peft.tuners.lora import LoraLayer

    found = {}
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer):
            parameter = getattr(module, "parameter_name", None)
            stack = parameter is not None and module.num_experts > 1
            found[base_path(path) + (f".{parameter}" if stack else "")] = module
    return found


def verify(model: PeftModel, plan: TargetPlan) -> None:
    """Compare what was built with what was planned: paths, shapes, scales, biases, and the count of what is trained.

    Raises:
        PlanError: naming the first modules that differ.
    """
    built: dict[str, Any] = {path: _built(layer) for path, layer in adapted_modules(model).items()}
    wanted: dict[str, Any] = {site.name: _planned(site) for site in plan.sites}
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    built |= {base_path(name): bias.numel() for name, bias in learned.items() if name.endswith(".bias")}
    wanted |= {f"{term.module}.bias": term.size for term in plan.biases}
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
    trained = sum(parameter.numel() for parameter in learned.values())
    if trained != plan.stored_parameters:
        raise PlanError(
            f"target={plan.strategy}",
            f"the adapter holds {trained:,} parameters, {plan.stored_parameters:,} were planned.",
            "This is a fault of lorascope; please report it with the model's name.",
        )


def _check_reload(model: PeftModel, plan: TargetPlan) -> None:
    """Refuse an adapter that PEFT would not load again: it renames weights of some types by patterns that miss.

    The adapter's own weights are handed to PEFT as a saved file's would be, so nothing changes.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    # with keys that PEFT looks for among the model's own, it would take the base's for missing
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    found = set_peft_model_state_dict(model, state)
    lost = [key for key in found.missing_keys if "lora_" in key and f".{ADAPTER}" in key] + [*found.unexpected_keys]
    if lost:
        raise PlanError(
            f"target={plan.strategy}",
            f"PEFT saves {lost[0].replace(f'.{ADAPTER}', '')} under a name that it does not load again "
            f"({len(lost)} weights).",
            "Leave these modules out, by roles or by target.modules.",
        )


def _built(layer: Any) -> tuple[int, int, int, float]:
    """Rank over all experts, width of the input, width of the output, scale."""
    if ADAPTER in layer.lora_embedding_A:
        a, b = layer.lora_embedding_A[ADAPTER], layer.lora_embedding_B[ADAPTER]
    else:
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    rank = a.shape[0]
    return (rank if b.shape[1] == rank else -1), a.shape[1], b.shape[0], round(layer.scaling[ADAPTER], 9)


def _planned(site: Site) -> tuple[int, int, int, float]:
    d_in, d_out = (site.d_out, site.d_in) if site.mirrored else (site.d_in, site.d_out)
    return site.rank * site.experts, d_in, d_out, round(site.scale, 9)


def keep_adapter_in_float32(model: PeftModel) -> None:
    """One adapter dtype for all arms: TRL turns adapters on a quantized base to bfloat16 and leaves others."""
    import torch

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
