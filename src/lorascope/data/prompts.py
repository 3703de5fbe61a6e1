"""A sample of encoded rows becomes batches of tensors, for whoever reads prompts before training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lorascope.data.batches import padded
from lorascope.data.tokens import Encoded

if TYPE_CHECKING:
    import torch

PROMPT_TOKENS = 1024  # padded tokens of one batch, at most, unless one row is longer


def prompt_batches(
    data: Encoded, count: int, pad_id: int, device: torch.device | str, *, batch_tokens: int = PROMPT_TOKENS
) -> list[dict[str, torch.Tensor]]:
    """Rows spread evenly over the data, since many files are sorted, and over the batches.

    Args:
        data: one half.
        count: rows to take; all, where there are fewer.
        pad_id: fills short rows; it is masked, and its label is IGNORED.
        device: where the tensors go.
        batch_tokens: padded tokens of one batch.

    Returns:
        Dictionaries of `input_ids`, `attention_mask` and `labels`, each of shape (rows, longest row).
    """
    count = min(count, len(data))
    taken = [place * len(data) // count for place in range(count)]
    width = max(len(data.input_ids[row]) for row in taken)
    batches = math.ceil(count / max(1, batch_tokens // width))
    return [padded(data, taken[first::batches], pad_id, device) for first in range(batches)]
