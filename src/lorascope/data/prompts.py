"""Prompts: built from columns, asked as questions with choices, or sampled as batches."""

from __future__ import annotations

import dataclasses
import math
import re
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


NOT_A_NAME = re.compile(r"[.\[\]!:{}]")  # what Python's own format would follow into an object


@dataclass(frozen=True)
class Template:
    """Literal text and the columns that follow it, in turn."""

    pieces: tuple[tuple[str, str | None], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns it asks for, each once."""
        return tuple(dict.fromkeys(name for _, name in self.pieces if name is not None))

    def renamed(self, columns: Mapping[str, str]) -> Template:
        """The same, where columns have other names."""
        return Template(tuple((text, name and columns.get(name, name)) for text, name in self.pieces))

    def render(self, values: Mapping[str, Any]) -> str:
        """The text with its columns' values in their places."""
        return "".join(text + ("" if name is None else str(values[name])) for text, name in self.pieces)


def read_template(text: str) -> Template:
    """The template that a text means: {COLUMN} is replaced, {{ and }} are braces, backslash and n a new line.

    Raises:
        ConfigError: for a brace that is left open, and for what is not a plain column's name.
    """
    remedy = "A column stands in braces, {COLUMN}; a brace itself is {{ or }}."
    pieces: list[tuple[str, str | None]] = []
    try:
        # the command line has no other way to write a new line
        for literal, name, form, conversion in string.Formatter().parse(text.replace("\\n", "\n")):
            if name is not None and (not name.strip() or form or conversion or NOT_A_NAME.search(name)):
                whole = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
                raise ConfigError("dataset.prompt", f"{{{whole}}} is not the name of a column.", remedy)
            pieces.append((literal, name))
    except ValueError as error:
        raise ConfigError("dataset.prompt", f"cannot be read: {error}.", remedy) from error
    if not any(name is not None for _, name in pieces):
        raise ConfigError("dataset.prompt", "names no column, so every question would be the same.", remedy)
    return Template(tuple(pieces))


LOOKED_AT = 3  # rows whose choices are all rendered before the others are trusted to continue in the same way


@dataclass(frozen=True)
class Question:
    """One item: its row, the token ids before the answer, and those of the right answer with what ends it."""

    row: Row
    prompt: list[int]
    answer: list[int]


def questions(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[Question]:
    """Conversations as questions for their last answer; plain texts ask nothing and are left out.

    Raises:
        DataError: when the chat template refuses a row.
    """
    return [_question(row, tokenizer) for row in rows if row.messages]


def _question(row: Row, tokenizer: PreTrainedTokenizerBase) -> Question:
    encoded = _rendered(row, tokenizer)
    start = encoded.learned.index(True) if True in encoded.learned else len(encoded.ids)
    return Question(row, encoded.ids[:start], encoded.ids[start:])


def _rendered(row: Row, tokenizer: PreTrainedTokenizerBase) -> EncodedRow:
    return encode_row(dataclasses.replace(row, every_answer=False), tokenizer, row.place or row.prompt[:60])


@dataclass(frozen=True)
class Choices:
    """What all answers to one question begin with, and the token ids by which each of them goes on and ends."""

    prompt: list[int]
    answers: tuple[tuple[int, ...], ...]


def choices(asked: Sequence[Question], labels: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Choices]:
    """Every label as an answer to every question, in the labels' order.

    A template puts the same tokens between question and answer, so that an answer's tokens do not depend on the
    question. This is looked at on some rows; where it does not hold, every answer to every question is rendered.

    Raises:
        DataError: when the chat template refuses a row.
    """
    if not asked:
        return []
    looked_at = [asked[index * (len(asked) - 1) // max(LOOKED_AT - 1, 1)] for index in range(LOOKED_AT)]
    rendered = [_choices(question, labels, tokenizer) for question in looked_at]
    first = rendered[0].answers
    alike = all(
        one.answers == first and one.prompt == question.prompt
        for one, question in zip(rendered, looked_at, strict=True)
    )
    if alike:
        return [Choices(question.prompt, first) for question in asked]
    return [_choices(question, labels, tokenizer) for question in asked]


def _choices(question: Question, labels: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Choices:
    head, whole, start = question.row.messages[:-1], [], len(question.prompt)
    for label in labels:
        row = dataclasses.replace(question.row, messages=(*head, Message("assistant", label)))
        one = _rendered(row, tokenizer)
        whole.append(one.ids)
        start = min(start, one.learned.index(True))
    return Choices(whole[0][:start], tuple(tuple(ids[start:]) for ids in whole))


PROMPT_TOKENS = 1024  # padded tokens of one batch, at most, unless one row is longer


def prompt_batches(
    data: TokenizedSplit, count: int, pad_id: int, device: torch.device | str, *, batch_tokens: int = PROMPT_TOKENS
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
