"""Initial values by seed, rows of B that stay zero in fused projections, and copies of the biases that are trained.

One LoRA of rank r_q + r_v on a fused q, k, v whose B has q's rows in its first r_q columns and v's rows in its last r_v
equals separate LoRAs on q and v (asked for in peft#1705). B starts from zero; where its gradient is zero, weight decay,
momentum and clipping leave it at zero, so masking the gradient is enough, and the file is a plain PEFT adapter.

PEFT trains the base's own biases. Here each is replaced by a copy in float32, like the rest of the adapter, so that the
base keeps its bits; a base in another dtype computes with the copy rounded to it, as PEFT will when it loads one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lorascope.compat import set_parameter
from lorascope.config.schema import Init, Scheme
from lorascope.errors import PlanError
from lorascope.targets.module_map import BiasTerm
from lorascope.targets.plan import PlannedModule, Site, TargetPlan
from lorascope.targets.weights import Spans, base_path

if TYPE_CHECKING:
    import torch


ADAPTER = "default"  # PEFT's own name for the only adapter


def check_init(plan: TargetPlan, scheme: Scheme) -> None:
    """Refuse a start that PEFT does not offer for this plan on a base that is so stored; plain LoRA always passes.

    Raises:
        PlanError: with what to take instead.
    """
    if plan.init is Init.lora:
        return
    place = f"target.init={plan.init}"
    if plan.init is Init.pissa and scheme is not Scheme.none:
        raise PlanError(
            place,
            f"takes the principal components out of the weights, which {scheme} does not let it write.",
            "Take quantization=none, or target.init=loftq with quantization=nf4.",
        )
    if plan.init is Init.loftq and scheme is not Scheme.nf4:
        raise PlanError(
            place,
            f"makes up for what 4 bits lose of the weights, and quantization is {scheme}.",
            "Take quantization=nf4, or target.init=pissa without quantization.",
        )
    for site in plan.sites:
        if site.layer < 0 or site.experts > 1 or site.parameter != "weight":
            raise PlanError(
                place,
                f"is for linear modules in the blocks, and {site.name} is none.",
                "Leave it out of target.modules and target.ranks, or take target.init=lora.",
            )
        widest = site.d_in if plan.init is Init.eva else min(site.d_in, site.d_out)
        if site.rank > widest:
            raise PlanError(
                place, f"finds {widest} components in {site.name}, not {site.rank}.", "Lower the ranks or the budget."
            )


def initialise(layers: Mapping[str, Any], plan: TargetPlan, seed: int) -> None:
    """Give every A the values that (seed, layer, role) stand for, and every B zeros.

    Args:
        layers: PEFT's LoRA layers by path, as `attach.adapted_modules` finds them.
        plan, seed: of the run.
    """
    import torch

    with torch.no_grad():
        for site in plan.sites:
            layer = layers[site.name]
            if site.parameter == "embedding":
                # as PEFT does: the table's side starts from zero, so that an untouched adapter changes nothing
                layer.lora_embedding_A[ADAPTER].zero_()
                layer.lora_embedding_B[ADAPTER].copy_(initial_a(seed, site.layer, site.key, site.rank, site.d_out).T)
                continue
            values = torch.cat([_part_a(part, seed) for part in site.parts], dim=1)
            a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            if site.mirrored:
                # PEFT's B faces the input here, and its columns go by rank, then expert
                a.zero_()
                b.copy_(values.permute(2, 1, 0).flatten(1))
            else:
                a.copy_(values.flatten(0, 1))
                b.zero_()


def _part_a(part: PlannedModule, seed: int) -> torch.Tensor:
    """A's start for one part, shape (experts, rank, d_in)."""
    import torch

    keys = [part.key] if part.experts == 1 else [f"{part.key}/{expert}" for expert in range(part.experts)]
    return torch.stack([initial_a(seed, part.layer, key, part.rank, part.d_in) for key in keys])


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


def keep_blocks(layers: Mapping[str, Any], plan: TargetPlan) -> None:
    """Let the gradients of B reach only the planned rows, in all of `initialise`'s layers that are adapted by parts."""
    for site in plan.sites:
        if site.rows is not None:
            layer = layers[site.name]
            facing_output = layer.lora_A if site.mirrored else layer.lora_B
            facing_output[ADAPTER].weight.register_hook(_MaskedGradient(_block_mask(site)))


def _block_mask(site: Site) -> torch.Tensor:
    """Where PEFT's B may be anything but zero: bool, of its shape (d_out, rank x experts).

    Where PEFT takes a stack's inputs for outputs it is A that may, of shape (experts x rank, d_out).
    """
    import torch

    mask = torch.zeros(site.d_out, site.rank, site.experts, dtype=torch.bool)
    column = 0
    for part in site.parts:
        mask[_rows_mask(part.rows or (), site.d_out), column : column + part.rank] = True
        column += part.rank
    return mask.transpose(1, 2).flatten(1).T if site.mirrored else mask.flatten(1)


def own_biases(model: Any, biases: Iterable[BiasTerm]) -> None:
    """Replace the base's trained biases by copies in float32, of which only the planned rows get a gradient."""
    import torch

    rows = {term.module: term.rows for term in biases}
    copies: dict[int, torch.nn.Parameter] = {}  # modules may share one
    for path, module in model.named_modules():
        bias = dict(module.named_parameters(recurse=False)).get("bias")
        if bias is None or not bias.requires_grad:
            continue
        if id(bias) not in copies:
            copies[id(bias)] = torch.nn.Parameter(bias.detach().to(torch.float32, copy=True))
            if (spans := rows[base_path(path)]) is not None:
                copies[id(bias)].register_hook(_MaskedGradient(_rows_mask(spans, len(bias))))
        module.bias = copies[id(bias)]
        if bias.dtype != torch.float32:
            rounded = _Rounded(copies[id(bias)], bias.dtype)
            module.register_forward_pre_hook(rounded.before)
            module.register_forward_hook(rounded.after, always_call=True)


def _rows_mask(spans: Spans, rows: int) -> torch.Tensor:
    """Which of so many rows lie in the spans: bool, shape (rows,)."""
    import torch

    mask = torch.zeros(rows, dtype=torch.bool)
    for start, stop in spans:
        mask[start:stop] = True
    return mask


class _MaskedGradient:
    """A gradient hook that zeroes what a mask leaves out; the mask follows the gradient's device."""

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        self.mask = self.mask.to(gradient.device)
        return gradient * self.mask


class _Rounded:
    """Lets a module compute with a float32 bias in the dtype of its base."""

    def __init__(self, bias: torch.Tensor, dtype: torch.dtype) -> None:
        self.bias, self.dtype = bias, dtype

    def before(self, module: Any, args: Any) -> None:
        set_parameter(module, "bias", self.bias.to(self.dtype))

    def after(self, module: Any, args: Any, output: Any) -> None:
        set_parameter(module, "bias", self.bias)
