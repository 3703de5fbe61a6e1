"""Batches of rows of like length: lengths and a seed come in, a sampler that draws each epoch's order comes out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any


def by_length(lengths: Sequence[int], rows: int, seed: int) -> Any:
    """A sampler of all rows, each `rows` of them of like length: transformers' own, with a stream of its own.

    transformers draws from torch's common stream, which an adapter's dropout draws from as well: two strategies would
    see the rows in another order from the second epoch on.

    Args:
        lengths: of every row, in tokens.
        rows: of one step of the optimizer.
        seed: of the run; the order follows from it and the epoch alone.
    """
    return _sampler_class()(rows, lengths=list(lengths), seed=seed)


@cache
def _sampler_class() -> Any:
    """The class, made where transformers may be imported."""
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler

    class ByLength(LengthGroupedSampler):
        """Knows its epoch, so that a training that goes on in the midst of one draws the same order again."""

        def __init__(self, rows: int, lengths: list[int], seed: int) -> None:
            super().__init__(rows, lengths=lengths)
            self.seed, self.epoch = seed, 0

        def set_epoch(self, epoch: int) -> None:
            """Called before each epoch."""
            self.epoch = epoch

        def __iter__(self) -> Iterator[int]:
            key = hashlib.sha256(f"{self.seed}/{self.epoch}".encode()).digest()
            self.generator = torch.Generator().manual_seed(int.from_bytes(key[:4], "big"))
            order: Iterator[int] = super().__iter__()
            return order

    return ByLength
