"""Tokenize rows into token ids and labels with the model's chat template."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from lorascope.data.rows import Message, Row, SpooledRows, TokenColumn, TokenFile, hashed_part
from lorascope.errors import DataError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


IGNORED = -100  # a label that no loss looks at, as in torch and transformers
GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class TokenizedSplit:
    """One half of a data set as the model reads it.

    `input_ids[i]` and `labels[i]` have the same length; labels are IGNORED where nothing is learned.
    """

    input_ids: Sequence[list[int]]  # tuples, or columns of a file
    labels: Sequence[list[int]]
    hash: str
    truncated: int = 0  # rows that were cut at max_length
    skipped: tuple[str, ...] = ()  # a line for each row that was cut before its completion, when they are skipped
    last_answer_only: int = 0  # conversations whose earlier answers the template renders in another way

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def tokens(self) -> int:
        """Tokens that the model reads, without padding."""
        return sum(map(len, self.input_ids))

    @property
    def supervised_tokens(self) -> int:
        """Tokens that have a loss. A row's first token has none, since nothing predicts it."""
        return sum(label != IGNORED for labels in self.labels for label in labels[1:])

    def to_dataset(self) -> Dataset:
        """The same as a `datasets.Dataset`, for the trainer."""
        from datasets import Dataset

        if isinstance(self.input_ids, TokenColumn):
            return self.input_ids.file.dataset
        return Dataset.from_dict({"input_ids": list(self.input_ids), "labels": list(self.labels)})


@dataclass(frozen=True)
class EncodedRow:
    """One row: all of its token ids, which of them are learned, and whether all its answers could be."""

    ids: list[int]
    learned: list[bool]
    last_answer_only: bool = False


def encode(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, half: str, *, skip: bool = False
) -> TokenizedSplit:
    """Token ids and labels of `rows`.

    Args:
        max_length: tokens that a row may have; what is beyond is cut off.
        half: train or eval, for the error's words.
        skip: leave out rows that have nothing to learn within max_length, instead of refusing them.

    Raises:
        DataError: naming the first row that has nothing left to learn, or that the chat template refuses.
    """
    ids: list[list[int]] = []
    labels: list[list[int]] = []
    bad: list[tuple[str, int, int]] = []
    file = TokenFile() if isinstance(rows, SpooledRows) else None
    digest = hashlib.sha256()
    kept = truncated = last_answer_only = 0
    for number, row in enumerate(rows, start=1):
        place = row.place or f"{half} row {number}"
        encoded = encode_row(row, tokenizer, place)
        learned = encoded.learned[:max_length]
        if not any(learned[1:]):
            start = encoded.learned.index(True) if True in encoded.learned else len(encoded.ids)
            bad.append((place, start, len(encoded.ids)))
            continue
        kept += 1
        digest.update(hashed_part(row))
        cut = encoded.ids[:max_length]
        targets = [token if one else IGNORED for token, one in zip(cut, learned, strict=True)]
        if file:
            file.append(cut, targets)
        else:
            ids.append(cut)
            labels.append(targets)
        truncated += len(encoded.ids) > max_length
        last_answer_only += encoded.last_answer_only
    if bad and not (skip and kept):
        raise _nothing_learned(bad, max_length)
    skipped = tuple(f"{place}: its completion begins after {start} tokens" for place, start, _ in bad)
    more = (digest.hexdigest()[:16], truncated, skipped, last_answer_only)
    if file is None:
        return TokenizedSplit(tuple(ids), tuple(labels), *more)
    file.close()
    return TokenizedSplit(TokenColumn(file, "input_ids"), TokenColumn(file, "labels"), *more)


def check_vocabulary(data: TokenizedSplit, pad_id: int, model: Any) -> None:
    """Refuse token ids that the model has no embedding for: its tokenizer is another model's.

    Raises:
        DataError: naming the highest of them.
    """
    known = len(model.get_input_embeddings().weight)
    highest = max(chain([pad_id], map(max, data.input_ids)))
    if highest >= known:
        raise DataError(
            "model",
            f"its tokenizer makes token ids up to {highest}, and it has embeddings for {known}.",
            "Take the tokenizer that came with these weights.",
        )


def _nothing_learned(bad: list[tuple[str, int, int]], max_length: int) -> DataError:
    place, start, length = bad[0]
    if start >= length:
        return DataError(
            place,
            "the chat template leaves no token of its answer.",
            "Look at the template in the model's folder; lorascope preview shows what it makes of a row.",
        )
    return DataError(
        place,
        f"its completion begins after {start} tokens, and train.max_length is {max_length}.",
        f"Nothing of it would be learned: train.max_length={length} holds it whole; or shorten the row, "
        f"or dataset.on_bad_row=skip ({len(bad)} such rows).",
    )


def encode_row(row: Row, tokenizer: PreTrainedTokenizerBase, place: str) -> EncodedRow:
    """A row's token ids and which of them are learned: a text whole, a conversation's answers and their ends.

    Raises:
        DataError: when the chat template refuses the row.
    """
    if row.text:
        eos = tokenizer.eos_token or ""
        ids = tokenizer(row.text if row.text.endswith(eos) else row.text + eos)["input_ids"]
        return EncodedRow(ids, [True] * len(ids))
    try:
        if row.every_answer and tokenizer.chat_template and GENERATION_MARK.search(tokenizer.chat_template):
            marked = tokenizer.apply_chat_template(
                _plain(row.messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )
            return EncodedRow(marked["input_ids"], [bool(one) for one in marked["assistant_masks"]])
        return _by_prefixes(row, tokenizer)
    except Exception as error:  # a template raises whatever its author chose
        raise DataError(
            place,
            f"the chat template refuses it: {str(error).strip() or type(error).__name__}",
            "Mend the row's turns, or the template in the model's folder.",
        ) from error


def _by_prefixes(row: Row, tokenizer: PreTrainedTokenizerBase) -> EncodedRow:
    """What an answer adds to the conversation before it, for templates that do not mark answers themselves."""
    whole = _render(row.messages, tokenizer)
    learned = [False] * len(whole)
    last = len(row.messages) - 1
    answers = [index for index, message in enumerate(row.messages) if message.role == "assistant"]
    for index in answers if row.every_answer else [last]:
        start = _common_prefix(_render(row.messages[:index], tokenizer, ask=True), whole)
        upto = _render(row.messages[: index + 1], tokenizer) if index < last else whole
        if upto != whole[: len(upto)]:  # some templates drop or rewrite what was said before the last turn
            start = _common_prefix(_render(row.messages[:last], tokenizer, ask=True), whole)
            return EncodedRow(whole, [position >= start for position in range(len(whole))], last_answer_only=True)
        learned[start : len(upto)] = [True] * (len(upto) - start)
    return EncodedRow(whole, learned)


def _render(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, *, ask: bool = False) -> list[int]:
    """Token ids of a conversation; with `ask`, as far as the place where an answer begins."""
    if tokenizer.chat_template:
        rendered = tokenizer.apply_chat_template(
            _plain(messages), tokenize=True, return_dict=True, add_generation_prompt=ask
        )
        ids: list[int] = rendered["input_ids"]
        return ids
    # a base model: a line for each message, and the end of the text after each answer
    ends = {"assistant": tokenizer.eos_token or "\n"}
    plain: list[int] = tokenizer("".join(m.content + ends.get(m.role, "\n") for m in messages))["input_ids"]
    return plain


def _plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _common_prefix(left: list[int], right: list[int]) -> int:
    """How many leading tokens are the same: a template may render a prompt differently once it is answered."""
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return position
    return min(len(left), len(right))


def padded(
    data: TokenizedSplit, rows: Sequence[int], pad_id: int, device: torch.device | str
) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask` and `labels` of some rows, each (rows, longest row); padding is IGNORED."""
    import torch

    width = max(len(data.input_ids[row]) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED)
    for place, row in enumerate(rows):
        length = len(data.input_ids[row])
        ids[place, :length] = torch.tensor(data.input_ids[row])
        mask[place, :length] = 1
        labels[place, :length] = torch.tensor(data.labels[row])
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}
