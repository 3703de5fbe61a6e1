"""The strategy that PEFT takes for a model type when nobody names one."""

from __future__ import annotations

from lorascope.errors import PlanError
from lorascope.targets.module_map import ModuleMap, Projection, whole_of


def default_names(model_type: str) -> tuple[str, ...]:
    """The module names that PEFT adapts by default; none where it has no default for the type."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    return tuple(sorted(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type, ())))


def default_modules(modules: ModuleMap) -> list[Projection]:
    """PEFT's choice on a module map; a fused module counts once, with its roles joined by '+'.

    Raises:
        PlanError: when PEFT has no default for the type, or its names are not among the projections.
    """
    names = default_names(modules.model_type)
    if not names:
        raise PlanError(
            "target=peft_default",
            f"PEFT has no default for the model type '{modules.model_type}'.",
            "Name roles: target=qv_ffn, or ranks of your own.",
        )
    whole: dict[str, Projection] = {}
    for projection in modules.projections:
        # as PEFT matches names: the whole path or what stands behind its last dots
        if projection.parameter == "weight" and any(
            projection.module == name or projection.module.endswith(f".{name}") for name in names
        ):
            whole[projection.module] = whole_of(projection) if projection.fused_with else projection
    if not whole:
        raise PlanError(
            "target=peft_default",
            f"PEFT's default for '{modules.model_type}' is {', '.join(names)}, and no projection is called so.",
            "Name roles: target=qv_ffn, or ranks of your own.",
        )
    return list(whole.values())
