"""How large a data set's rows are to a model, measured on few of them: what estimates need."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorascope.config import DatasetConfig
from lorascope.data.files import content_size
from lorascope.data.rows import Row
from lorascope.data.sources import load_rows
from lorascope.data.tokens import encode_row
from lorascope.errors import LorascopeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MEASURED = 16  # rows that are tokenized for each figure
LARGEST = 32 * 2**20  # bytes of files; reading more twice would be felt
LETTERS = 3.5  # to a token of English, where there is no tokenizer


@dataclass(frozen=True)
class Size:
    """Of the train half rows and about how many tokens; of both halves tokens of the longest row, not cut.

    `longest`, and `supervised`, the most of a row that have a loss, are None where there was no tokenizer.
    """

    rows: int
    tokens: int
    longest: int | None = None
    supervised: int | None = None


def size_of(dataset: DatasetConfig, tokenizer: PreTrainedTokenizerBase | None) -> Size | None:
    """Measure a data set of this machine; None for one that is elsewhere, large, or cannot be read.

    Tokenized are the rows with most letters, those with most letters in an answer, and some spread over the half.
    """
    try:
        if not _at_hand(dataset):
            return None
        halves = load_rows(dataset)
        train = list(halves.train)
        if tokenizer is None:
            return Size(len(train), max(1, round(sum(map(_letters, train)) / LETTERS)))
        every = [*train, *halves.eval]
        sizes = [_tokens(row, tokenizer) for row in (*_most(every, _letters), *_most(every, _answer))]
        some = train[:: max(1, len(train) // MEASURED)]
        tokens = sum(_tokens(row, tokenizer)[0] for row in some) / len(some)
    except LorascopeError:
        return None  # the run says what is wrong
    longest, supervised = (max(figures) for figures in zip(*sizes, strict=True))
    return Size(len(train), max(1, round(tokens * len(train))), longest, supervised)


def _at_hand(dataset: DatasetConfig) -> bool:
    if dataset.source == "hub" or dataset.parts or dataset.streaming:
        return False
    return dataset.source != "file" or content_size(dataset) <= LARGEST


def _most(rows: Sequence[Row], figure: Callable[[Row], int]) -> list[Row]:
    return heapq.nlargest(MEASURED, rows, key=figure)


def _letters(row: Row) -> int:
    return len(row.text) + sum(len(message.content) + 4 for message in row.messages)  # and the marks of a turn


def _answer(row: Row) -> int:
    return len(row.text) + sum(len(message.content) for message in row.messages if message.role == "assistant")


def _tokens(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Of a row: all, and those that have a loss."""
    encoded = encode_row(row, tokenizer, row.place)
    return len(encoded.ids), sum(encoded.learned[1:])
