"""Statistics of a data set: row lengths before loading, notes, and the card in the record."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorascope.config.schema import DatasetConfig
from lorascope.data.files import content_size
from lorascope.data.rows import Row, Rows, shared_prompts
from lorascope.data.sources import load_rows
from lorascope.data.tokenization import TokenizedSplit, encode_row
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


def data_notes(rows: Rows, train: TokenizedSplit, evaluation: TokenizedSplit) -> list[str]:
    """Bad rows that are skipped, prompts on both sides, rows that are cut, answers that are not learned."""
    notes = []
    skipped = [*rows.skipped, *train.skipped, *evaluation.skipped]
    if skipped:
        notes.append(f"{len(skipped)} bad rows are skipped; the first: {skipped[0]}")
    if shared := shared_prompts(rows):
        first = shared[0].prompt[:60]
        notes.append(f"{len(shared)} of {len(rows.eval)} eval prompts are in the train half too; the first: {first!r}")
    for half, encoded in (("train", train), ("eval", evaluation)):
        if encoded.truncated:
            notes.append(f"{encoded.truncated} of {len(encoded)} {half} rows are cut at train.max_length")
        if encoded.last_answer_only:
            notes.append(
                f"in {encoded.last_answer_only} {half} conversations only the last answer is learned: "
                "the chat template renders the earlier ones in another way once more is said"
            )
    return notes


QUANTILES = {"shortest": 0.0, "quarter": 0.25, "median": 0.5, "three_quarters": 0.75, "most": 0.95, "longest": 1.0}


def data_card(rows: Rows, train: TokenizedSplit, evaluation: TokenizedSplit) -> dict[str, Any]:
    """The card, JSON-ready.

    Args:
        rows: both halves and the further sets, as they were loaded.
        train: the encoded train half.
        evaluation: the encoded eval half.

    Returns:
        `task`, `origin`, `license`, `split` in words; for each half `rows`, `tokens` and `supervised_tokens`, `lengths`
        in tokens (nearest rank; `most` is the 95th of a hundred), `duplicated_prompts`, the share of rows whose prompt
        came before in this half, and `labels`, rows of each class; for each further set the same without tokens.
    """
    return {
        "task": task_of(rows),
        "origin": rows.origin,
        "license": rows.license or None,
        "split": rows.split or None,
        "train": _half(rows.train, train, rows.labels),
        "eval": _half(rows.eval, evaluation, rows.labels),
        "sets": {name: _set(asked, rows.labels_of.get(name, rows.labels)) for name, asked in rows.probes.items()},
    }


def task_of(rows: Rows) -> str:
    """What kind of thing is learned: classification, texts, conversations, or questions and answers; or several."""
    if rows.labels:
        return "classification"
    kinds = Counter(_kind(row) for row in rows.train)
    if rows.labels_of:
        kinds["classification"] += 1
    return " and ".join(sorted(kinds))


def _kind(row: Row) -> str:
    if not row.messages:
        return "texts"
    return "conversations" if sum(message.role == "assistant" for message in row.messages) > 1 else "answers"


def quantiles(lengths: Iterable[int]) -> dict[str, int]:
    """Lengths that so many rows are not above, by nearest rank; nothing for no rows."""
    found = sorted(lengths)
    return {name: found[max(0, _rank(share, len(found)) - 1)] for name, share in QUANTILES.items()} if found else {}


def _rank(share: float, rows: int) -> int:
    return -int(-share * rows // 1)  # the ceiling


def _half(rows: Sequence[Row], encoded: TokenizedSplit, labels: Sequence[str]) -> dict[str, Any]:
    return _set(rows, labels) | {
        "tokens": encoded.tokens,
        "supervised_tokens": encoded.supervised_tokens,
        "lengths": quantiles(map(len, encoded.input_ids)),
    }


def _set(rows: Sequence[Row], labels: Sequence[str]) -> dict[str, Any]:
    card: dict[str, Any] = {"rows": len(rows), "duplicated_prompts": duplicated(rows)}
    if labels:
        card["labels"] = _counts(rows, labels)
    return card


def duplicated(rows: Sequence[Row]) -> float:
    """The share of rows whose prompt stands in an earlier row, apart from case and spaces."""
    prompts = {" ".join(row.prompt.casefold().split()) for row in rows}
    return round(1 - len(prompts) / len(rows), 6) if rows else 0.0


def _counts(rows: Sequence[Row], labels: Sequence[str]) -> Mapping[str, int]:
    found = Counter(row.completion for row in rows)
    return {label: found[label] for label in labels}
