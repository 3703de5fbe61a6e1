"""Initialize an adapter from data or from the base model's weights."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lorascope.compat import low_rank, tensor_reader
from lorascope.config.schema import Init
from lorascope.errors import PlanError
from lorascope.targets import eva
from lorascope.targets.attach import ADAPTER, adapted_modules, keep_adapter_in_float32, verify
from lorascope.targets.auto_scores import plain_weight
from lorascope.targets.plan import TargetPlan

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from lorascope.targets.auto_scores import Batch
    from lorascope.targets.eva import Components


def start_adapter(
    model: PeftModel,
    plan: TargetPlan,
    start: Components | None = None,
    batches: Sequence[Batch] = (),
    base_folder: Path | None = None,
) -> None:
    """Set what `attach` could not: A from the prompts' components (EVA), A and B from lost bits (LoftQ).

    Args:
        model: as `attach` left it; only its A and B are written.
        plan: what it was built from; `check_init` has passed it.
        start: EVA's components, where automatic placement has found them.
        batches: of prompts, for EVA without these: `input_ids`, `attention_mask` and `labels`, on the model's device.
        base_folder: where the base's weights lie unquantized, in safetensors, for LoftQ.

    Raises:
        PlanError: when the components or the weights cannot be had.
    """
    if plan.init is Init.eva:
        _load_components(model, plan, start or _components(model, plan, batches))
    elif plan.init is Init.loftq:
        _make_up_for_lost_bits(model, plan, base_folder)


def _components(model: PeftModel, plan: TargetPlan, batches: Sequence[Batch]) -> Components:
    """As many components as the plan has ranks.

    All modules are given the highest rank, since PEFT would move ranks between modules that read the same; a lower one
    takes the first of them.
    """
    ranks = {site.name: site.rank for site in plan.sites}
    highest = max(ranks.values())
    prompts = eva.prompts_for(batches, highest)
    paths = eva.readable(model.get_base_model(), list(ranks), prompts.batches[0])
    narrow = {site.name for site in plan.sites if site.d_in < highest}
    if unread := [path for path in ranks if path not in paths or path in narrow]:
        raise PlanError(
            "target.init=eva",
            f"{unread[0]} does not read every token in its place, or fewer numbers than the highest rank.",
            "Leave its role out, or take target.init=lora.",
        )
    with warnings.catch_warnings():
        # the adapter is switched off for it; its biases stay, and are still the base's
        warnings.filterwarnings("ignore", "Careful, disabling adapter layers with bias", UserWarning)
        found = eva.components(model, list(ranks), highest, prompts)
    return {path: found[path][:rank] for path, rank in ranks.items()}


def _load_components(model: PeftModel, plan: TargetPlan, components: Components) -> None:
    """Let PEFT set every A, and hold it to having set nothing else."""
    from peft.tuners.lora.eva import initialize_lora_eva_weights

    planned = {site.name: (site.rank, site.d_in) for site in plan.sites}
    shapes = {path: tuple(rows.shape) for path, rows in components.items()}
    if shapes != planned:
        differ = sorted(path for path in shapes.keys() | planned.keys() if shapes.get(path) != planned.get(path))
        raise PlanError(
            "target.init=eva",
            f"{differ[0]}: planned {planned.get(differ[0], 'nothing')}, components {shapes.get(differ[0], 'none')}.",
            "The plan was changed after its components were found; this is a fault of lorascope, please report it.",
        )
    config = copy.deepcopy(model.peft_config[ADAPTER])
    initialize_lora_eva_weights(
        model, eva_state_dict={f"base_model.model.{path}": rows for path, rows in components.items()}
    )
    model.peft_config[ADAPTER] = config  # PEFT writes its targets and patterns anew, in full
    keep_adapter_in_float32(model)
    verify(model, plan)
    moved = [path for path, layer in adapted_modules(model).items() if bool(layer.lora_B[ADAPTER].weight.any())]
    if moved:
        raise PlanError("target.init=eva", f"B is not zero in {moved[0]}.", "Please report it with PEFT's version.")


def _make_up_for_lost_bits(model: PeftModel, plan: TargetPlan, folder: Path | None) -> None:
    """LoftQ (arXiv:2310.08659): scale * B A becomes the best approximation of W minus its 4-bit self.

    PEFT's `replace_lora_weights_loftq` leaves the scale out (peft#1982) and works on CUDA alone; its two steps, reading
    a weight and splitting what it lost, are PEFT's here too.
    """
    import torch

    layers = adapted_modules(model)
    for site, original in zip(plan.sites, _originals(model, [site.name for site in plan.sites], folder), strict=True):
        layer = layers[site.name]
        if type(layer.get_base_layer().weight).__name__ != "Params4bit":
            raise PlanError(
                "target.init=loftq",
                f"{site.name} is not stored in 4 bits.",
                "Leave its role out, or take target.init=lora.",
            )
        quantized = plain_weight(layer.get_base_layer())
        exact = original.to(quantized)
        lost = (exact.T if site.transposed else exact) - quantized
        a, b = low_rank(lost, site.rank)
        share = math.sqrt(site.scale)  # of the scale, A and B take as much each, as in PiSSA
        with torch.no_grad():
            layer.lora_A[ADAPTER].weight.copy_(a / share)
            layer.lora_B[ADAPTER].weight.copy_(b / share)
    verify(model, plan)


def _originals(model: PeftModel, paths: Sequence[str], folder: Path | None) -> Iterator[torch.Tensor]:
    """Modules' unquantized weights one after another, shape as the file has it."""
    from safetensors import SafetensorError

    remedy = "Keep the base as a local folder of safetensors (model.path=FOLDER), or take target.init=lora."
    if folder is None:
        raise PlanError("target.init=loftq", "the base's unquantized weights are on no disk.", remedy)
    wanted = "safetensors"
    try:
        read = tensor_reader(model, folder)
        for path in paths:
            wanted = f"weight of {path}"
            yield read(f"{path}.weight")
    except (FileNotFoundError, KeyError, SafetensorError) as error:
        raise PlanError("target.init=loftq", f"{folder} holds no {wanted}.", remedy) from error
