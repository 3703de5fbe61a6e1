"""A part of a fused projection: B is kept zero outside the part's rows, so that the other parts stay as they are.

One LoRA of rank r_q + r_v on a fused q, k, v whose B has q's rows in its first r_q columns and v's rows in its last r_v
equals separate LoRAs on q and v (asked for in peft#1705). B starts from zero; where its gradient is zero, weight decay,
momentum and clipping leave it at zero, so masking the gradient is enough, and the file is a plain PEFT adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lorascope.targets.plan import Site, TargetPlan
from lorascope.targets.start import ADAPTER

if TYPE_CHECKING:
    import torch


def keep_blocks(layers: Mapping[str, Any], plan: TargetPlan) -> None:
    """Let the gradients of B reach only the planned rows, in every module that is adapted by parts.

    Args:
        layers: PEFT's LoRA layers by path, as `attach.adapted_modules` finds them.
        plan: what they were built from.
    """
    for site in plan.sites:
        if site.blocked:
            layer = layers[site.module]
            mirrored = site.parts[0].projection.mirrored
            weight = (layer.lora_A if mirrored else layer.lora_B)[ADAPTER].weight
            weight.register_hook(_Masked(block_mask(site).T if mirrored else block_mask(site)))


def block_mask(site: Site) -> torch.Tensor:
    """Where B may be anything but zero: bool, shape (d_out, rank x experts), columns as PEFT orders them."""
    import torch

    projection = site.parts[0].projection
    mask = torch.zeros(projection.width, site.rank, projection.experts, dtype=torch.bool)
    column = 0
    for part in site.parts:
        rows = torch.zeros(projection.width, dtype=torch.bool)
        for start, stop in part.projection.rows or ():
            rows[start:stop] = True
        mask[rows, column : column + part.rank] = True
        column += part.rank
    if projection.mirrored:  # PEFT's A: its rows go by expert, then rank
        mask = mask.transpose(1, 2)
    return mask.flatten(1)


class _Masked:
    """A gradient hook; the mask follows the gradient's device."""

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        if self.mask.device != gradient.device:
            self.mask = self.mask.to(gradient.device)
        return gradient * self.mask
