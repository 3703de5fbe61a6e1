"""What a data set looks like to a model: its encoded halves, lengths, and tokens per step and epoch. No weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING

from lorascope.config import DatasetConfig, OnBadRow, TrainConfig
from lorascope.data.notes import data_notes
from lorascope.data.rows import Row, Rows
from lorascope.data.sources import load_rows
from lorascope.data.tokens import IGNORED, Encoded, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Shown:
    """One row as the model reads it."""

    input_ids: list[int]
    supervised: list[bool]
    spans: list[tuple[str, bool]]  # the text in pieces, each learned or not

    @property
    def text(self) -> str:
        """The row's text, special tokens included."""
        return "".join(piece for piece, _ in self.spans)


@dataclass(frozen=True)
class Half:
    """One half of the data, encoded."""

    encoded: Encoded
    tokenizer: PreTrainedTokenizerBase

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(ids) for ids in self.encoded.input_ids]

    def first(self, rows: int) -> Iterator[Shown]:
        """The first rows, as the model reads them."""
        for ids, labels in islice(zip(self.encoded.input_ids, self.encoded.labels, strict=True), rows):
            supervised = [label != IGNORED for label in labels]
            yield Shown(ids, supervised, _spans(ids, supervised, self.tokenizer))


@dataclass(frozen=True)
class Summary:
    """A data set under a config's train settings."""

    rows: Rows
    train: Half
    eval: Half
    max_length: int
    batch: int  # rows of one optimizer step
    notes: list[str]

    @property
    def tokens_per_step(self) -> float:
        """Tokens that one optimizer step reads, on average, without padding."""
        return self.batch * self.train.encoded.tokens / len(self.train.encoded)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the train half."""
        return math.ceil(len(self.train.encoded) / self.batch)


def summarise(dataset: DatasetConfig, train: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> Summary:
    """Load and encode a data set as a run would.

    Raises:
        DataError: for whatever would stop the run.
    """
    rows = load_rows(dataset)
    skip = dataset.on_bad_row is OnBadRow.skip

    def half(found: Sequence[Row], name: str) -> Half:
        return Half(encode(found, tokenizer, train.max_length, name, skip=skip), tokenizer)

    one, other = half(rows.train, "train"), half(rows.eval, "eval")
    return Summary(
        rows=rows,
        train=one,
        eval=other,
        max_length=train.max_length,
        batch=train.batch_size * train.gradient_accumulation,
        notes=data_notes(rows, one.encoded, other.encoded),
    )


def _spans(ids: list[int], supervised: list[bool], tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, bool]]:
    """The decoded text in pieces that are learned or not. A row's first token is never learned: nothing predicts it."""
    learned = [False, *supervised[1:]]
    pieces = []
    for flag, run in groupby(zip(ids, learned, strict=True), key=lambda pair: pair[1]):
        pieces.append((tokenizer.decode([token for token, _ in run], clean_up_tokenization_spaces=False), flag))
    return pieces


def histogram(lengths: list[int], bars: int = 8) -> list[tuple[int, int, int]]:
    """(from, to, rows) of equally wide bins over the lengths; `to` is inside the bin."""
    low, high = min(lengths), max(lengths)
    width = max(1, math.ceil((high - low + 1) / bars))
    edges = range(low, high + 1, width)
    return [(edge, edge + width - 1, sum(edge <= length < edge + width for length in lengths)) for edge in edges]
