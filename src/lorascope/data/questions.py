"""Rows as questions: what the model is shown before it answers, the right answer, and those it may choose from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorascope.data.rows import Message, Row
from lorascope.data.tokens import EncodedRow, encode_row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
