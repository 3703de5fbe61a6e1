"""Prompts: built from columns, asked as questions with choices, or sampled as batches."""

from __future__ import annotations

import dataclasses
import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorascope.data.rows import Message, Row
from lorascope.data.tokenization import EncodedRow, TokenizedSplit, encode_row, padded
from lorascope.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Template:
    """A text with the names of columns to be replaced by their values."""

    pieces: tuple[tuple[str, str | None], ...]  # literal text, and the column that follows it

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, each once."""
        return tuple(dict.fromkeys(name for _, name in self.pieces if name is not None))

    def renamed(self, columns: Mapping[str, str]) -> Template:
        """The same template for columns of other names."""
        return Template(tuple((text, name and columns.get(name, name)) for text, name in self.pieces))

    def render(self, values: Mapping[str, Any]) -> str:
        """The text with the columns' values."""
        return "".join(text + ("" if name is None else str(values[name])) for text, name in self.pieces)


def read_template(text: str) -> Template:
    """Parse a template: {COLUMN} is a column, {{ and }} are braces, a backslash and n are a new line."""
    remedy = "A column stands in braces, {COLUMN}; a brace itself is {{ or }}."
    pieces: list[tuple[str, str | None]] = []
    try:
        # on the command line there is no other way to write a new line
        for literal, name, form, conversion in string.Formatter().parse(text.replace("\\n", "\n")):
            field = (name or "") + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            if name is not None and (not name.strip() or set(field) & set(".[]!:{}")):
                raise ConfigError("dataset.prompt", f"{{{field}}} is not the name of a column.", remedy)
            pieces.append((literal, name))
    except ValueError as error:
        raise ConfigError("dataset.prompt", f"cannot be read: {error}.", remedy) from error
    if not any(name is not None for _, name in pieces):
        raise ConfigError("dataset.prompt", "names no column, so every question would be the same.", remedy)
    return Template(tuple(pieces))


CHECKED_ROWS = 3  # rows whose choices are all rendered before the others are expected to be alike
PROMPT_TOKENS = 1024  # padded tokens of one batch of prompts, unless one row is longer


@dataclass(frozen=True)
class Question:
    """A row, the token ids before its answer, and those of the answer with what ends it."""

    row: Row
    prompt: list[int]
    answer: list[int]


def questions(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[Question]:
    """Conversations as questions for their last answer; texts are left out."""
    encoded = ((row, _last_answer(row, tokenizer)) for row in rows if row.messages)
    return [Question(row, one.ids[: one.start], one.ids[one.start :]) for row, one in encoded]


def _last_answer(row: Row, tokenizer: PreTrainedTokenizerBase) -> EncodedRow:
    return encode_row(dataclasses.replace(row, every_answer=False), tokenizer, row.place or row.prompt[:60])


@dataclass(frozen=True)
class Choices:
    """The token ids that all answers to one question begin with, and those by which each of them goes on."""

    prompt: list[int]
    answers: tuple[tuple[int, ...], ...]


def choices(asked: Sequence[Question], labels: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Choices]:
    """Every label as an answer to every question, in the labels' order.

    Most templates put the same tokens between question and answer, so that an answer's tokens do not depend on the
    question. Some rows are checked for this; if it does not hold, every answer to every question is rendered.

    Raises:
        DataError: when the chat template refuses a row.
    """
    if not asked:
        return []
    checked = [asked[index * (len(asked) - 1) // (CHECKED_ROWS - 1)] for index in range(CHECKED_ROWS)]
    rendered = [_choices(question, labels, tokenizer) for question in checked]
    answers = rendered[0].answers
    if rendered == [Choices(question.prompt, answers) for question in checked]:
        return [Choices(question.prompt, answers) for question in asked]
    return [_choices(question, labels, tokenizer) for question in asked]


def _choices(question: Question, labels: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Choices:
    head = question.row.messages[:-1]
    rows = [dataclasses.replace(question.row, messages=(*head, Message("assistant", label))) for label in labels]
    encoded = [_last_answer(row, tokenizer) for row in rows]
    start = min(len(question.prompt), *(one.start for one in encoded))
    return Choices(encoded[0].ids[:start], tuple(tuple(one.ids[start:]) for one in encoded))


def prompt_batches(
    data: TokenizedSplit, count: int, pad_id: int, device: torch.device | str, *, batch_tokens: int = PROMPT_TOKENS
) -> list[dict[str, torch.Tensor]]:
    """Rows spread evenly over the data, since many files are sorted, and over the batches.

    Args:
        count: rows to take; all, where there are fewer.
        pad_id: fills short rows; it is masked, and its label is IGNORED.
        batch_tokens: padded tokens of one batch.

    Returns:
        Dictionaries of `input_ids`, `attention_mask` and `labels`, each of shape (rows, longest row).
    """
    count = min(count, len(data))
    taken = [place * len(data) // count for place in range(count)]
    width = max(len(data.input_ids[row]) for row in taken)
    batches = math.ceil(count / max(1, batch_tokens // width))
    return [padded(data, taken[first::batches], pad_id, device) for first in range(batches)]
