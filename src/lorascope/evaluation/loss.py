"""Eval loss: negative log-likelihood over supervised tokens, in nats per token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from lorascope.config.schema import EvaluationConfig
from lorascope.data.tokenization import IGNORED, TokenizedSplit, check_vocabulary, padded

if TYPE_CHECKING:
    import torch


def token_losses(model: Any, inputs: Mapping[str, Any], labels: torch.Tensor) -> torch.Tensor:
    """Loss of every supervised token, in nats; see `scored`."""
    return scored(model, inputs, labels)[0]


def scored(model: Any, inputs: Mapping[str, Any], labels: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Loss of every supervised token, in nats, and what the model's forward gave besides.

    The vocabulary's logits are computed only for the columns in which some row is supervised (`logits_to_keep`):
    logits of every column fill the memory (trl#5069), and on a CPU they took half of a training step.

    Args:
        model: a causal language model of transformers, with or without an adapter.
        inputs: what its forward takes; `input_ids` of shape (rows, width).
        labels: (rows, width), IGNORED where there is no loss; the label at t is predicted from what stands before t.

    Returns:
        float32, shape (supervised tokens,), row by row; the model's output, its logits of some columns only.
    """
    from torch.nn.functional import cross_entropy

    targets = labels[:, 1:]
    columns = (targets != IGNORED).any(dim=0).nonzero().flatten()
    output = model(**inputs, logits_to_keep=columns, use_cache=False)
    logits = output.logits
    if logits.shape[1] != len(columns):  # a model that does not know logits_to_keep
        logits = logits[:, columns]
    targets = targets[:, columns]
    chosen = targets != IGNORED
    return cross_entropy(logits[chosen].float(), targets[chosen], reduction="none"), output


@dataclass(frozen=True)
class Loss:
    """A summed negative log-likelihood, in nats, and the number of tokens that it was summed over."""

    nats: float
    tokens: int

    @property
    def mean(self) -> float:
        """Nats per supervised token."""
        return self.nats / self.tokens


def total(losses: Iterable[Loss]) -> Loss:
    """The sum of some rows' losses; by math.fsum, so that it does not depend on their order."""
    losses = list(losses)
    return Loss(math.fsum(one.nats for one in losses), sum(one.tokens for one in losses))


def eval_loss(
    model: Any,
    data: TokenizedSplit,
    *,
    pad_id: int,
    batch_tokens: int = EvaluationConfig.batch_tokens,
    progress: Callable[[int], object] = lambda rows: None,
) -> Loss:
    """The loss of `model` on `data`, without dropout and gradients; the model is left in the mode it was in.

    Args:
        model: a causal language model of transformers, with or without an adapter.
        data: token ids and labels; a row's label at position t is predicted from what stands before t.
        pad_id: fills short rows; it is masked.
        batch_tokens: padded tokens of one forward pass; rows are sorted by length, so little of it is padding.
        progress: called with the number of rows after each pass.

    Returns:
        The sum in float64 and its token count. A non-finite row makes the sum non-finite: nothing is dropped.

    Raises:
        DataError: for a token id that the model does not know.
    """
    return total(item_losses(model, data, pad_id=pad_id, batch_tokens=batch_tokens, progress=progress))


def item_losses(
    model: Any,
    data: TokenizedSplit,
    *,
    pad_id: int,
    batch_tokens: int = EvaluationConfig.batch_tokens,
    progress: Callable[[int], object] = lambda rows: None,
) -> list[Loss]:
    """The loss of every row by itself, in the rows' order; arguments and errors as `eval_loss` has them."""
    check_vocabulary(data, pad_id, model)
    found = [Loss(0.0, 0)] * len(data)
    with evaluating(model):
        for rows in batches([*map(len, data.input_ids)], batch_tokens):
            inputs = padded(data, rows, pad_id, model.device)
            labels = inputs.pop("labels")
            losses = iter(token_losses(model, inputs, labels).double().tolist())
            for row, tokens in zip(rows, (labels[:, 1:] != IGNORED).sum(dim=1).tolist(), strict=True):
                found[row] = Loss(math.fsum(islice(losses, tokens)), tokens)
            progress(len(rows))
    return found


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """A model without dropout and gradients; then it is in the mode it was in."""
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers, longest rows first, so many at a time that their padded size stays within `batch_tokens`."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
