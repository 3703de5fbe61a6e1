"""Guards: a loss or a gradient that is no number stops the run before it reaches the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lorascope.data.tokens import Encoded
from lorascope.errors import RunError

if TYPE_CHECKING:
    import torch


def check_finite(step: int, losses: Sequence[torch.Tensor], norm: Any, batches: Sequence[Any], data: Encoded) -> None:
    """Stop on a loss or gradient norm that is not finite: one look at the device for a whole step.

    Args:
        step: that is about to be made.
        losses: of its batches, summed up.
        norm: of the gradients.
        batches: what was read, `input_ids` of shape (rows, width).
        data: whose rows they are.

    Raises:
        RunError: naming step, what is not finite, and rows.
    """
    import torch

    loss = torch.stack([one.float() for one in losses]).sum()
    whole = torch.stack([loss, torch.as_tensor(norm, dtype=torch.float32, device=loss.device)])
    if torch.isfinite(whole).all():
        return
    what = " and ".join(
        f"{name} {value}"
        for name, value in zip(("loss", "gradient norm"), whole.tolist(), strict=True)
        if not torch.isfinite(torch.tensor(value))
    )
    raise RunError(
        f"step {step}",
        f"{what}: not a number to learn from. Rows of the batch: {_rows(batches, data)}.",
        "Lower train.learning_rate or target.alpha, take model.dtype=bfloat16 for float16, or look at these rows.",
    )


def _rows(batches: Sequence[Any], data: Encoded) -> str:
    """The numbers of the train rows that stand in these batches, packed or not."""

    def text(ids: Sequence[int]) -> str:
        return f",{','.join(map(str, ids))},"

    read = [text(ids) for batch in batches for ids in batch.tolist()]
    found = [number for number, ids in enumerate(data.input_ids) if any(text(ids) in one for one in read)]
    return ", ".join(map(str, found[:32])) + (" …" if len(found) > 32 else "") if found else "not known"
