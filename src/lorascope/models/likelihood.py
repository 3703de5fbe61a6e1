"""Negative log-likelihood of supervised tokens: inputs and labels come in, one loss a token goes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lorascope.data.tokens import IGNORED

if TYPE_CHECKING:
    import torch


def token_losses(model: Any, inputs: Mapping[str, Any], labels: torch.Tensor) -> torch.Tensor:
    """Loss of every supervised token, in nats.

    The vocabulary's logits are computed only for the columns in which some row is supervised (`logits_to_keep`):
    logits of every column fill the memory (trl#5069), and on a CPU they took half of a training step.

    Args:
        model: a causal language model of transformers, with or without an adapter.
        inputs: what its forward takes; `input_ids` of shape (rows, width).
        labels: (rows, width), IGNORED where there is no loss; the label at t is predicted from what stands before t.

    Returns:
        float32, shape (supervised tokens,), row by row.
    """
    from torch.nn.functional import cross_entropy

    targets = labels[:, 1:]
    columns = (targets != IGNORED).any(dim=0).nonzero().flatten()
    logits = model(**inputs, logits_to_keep=columns, use_cache=False).logits
    if logits.shape[1] != len(columns):  # a model that does not know logits_to_keep
        logits = logits[:, columns]
    targets = targets[:, columns]
    chosen = targets != IGNORED
    losses: torch.Tensor = cross_entropy(logits[chosen].float(), targets[chosen], reduction="none")
    return losses
