"""Encoded rows of unequal length become tensors: shorter ones are padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lorascope.data.tokens import IGNORED, Encoded

if TYPE_CHECKING:
    import torch


def padded(data: Encoded, rows: Sequence[int], pad_id: int, device: torch.device | str) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask` and `labels` of some rows, each (rows, longest row); padding is IGNORED."""
    import torch

    width = max(len(data.input_ids[row]) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED)
    for place, row in enumerate(rows):
        length = len(data.input_ids[row])
        ids[place, :length] = torch.tensor(data.input_ids[row])
        mask[place, :length] = 1
        labels[place, :length] = torch.tensor(data.labels[row])
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}
