"""Tokenize rows into token ids and labels with the model's chat template."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

from lorascope.data.chat_template import check_shown, is_marked, rendering
from lorascope.data.rows import DiskRows, Row, Rows, hashed_part, write_tokens
from lorascope.errors import DataError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


IGNORED = -100  # a label that no loss looks at, as in torch and transformers


@dataclass(frozen=True)
class TokenizedSplit:
    """One split of a data set as the model reads it."""

    input_ids: Sequence[list[int]]  # a tuple, or a column of a data set on the disk
    labels: Sequence[list[int]]  # as long as the row's ids; IGNORED where nothing is learned
    hash: str
    truncated: int = 0  # rows that were cut at max_length
    skipped: tuple[str, ...] = ()  # a line for each row that was cut before its completion, when they are skipped
    last_answer_only: int = 0  # conversations whose earlier answers the template renders in another way
    refused: frozenset[int] = frozenset()  # rows by number from 0 that the template refuses, when they are skipped
    ids_hash: str = ""  # of the token ids

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
        """The split as the trainer takes it."""
        from datasets import Column, Dataset

        if isinstance(self.input_ids, Column):
            return self.input_ids.source
        return Dataset.from_dict({"input_ids": list(self.input_ids), "labels": list(self.labels)})


@dataclass(frozen=True)
class EncodedRow:
    """The token ids of one row, not cut, and which of them are learned."""

    ids: list[int]
    learned: list[bool]
    last_answer_only: bool = False  # though every answer was to be learned

    @property
    def start(self) -> int:
        """The first learned token's index; the number of tokens where none is learned."""
        return [*self.learned, True].index(True)


def encode(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, name: str, *, skip: bool = False
) -> TokenizedSplit:
    """Token ids and labels of `rows`.

    Args:
        max_length: longer rows are cut to so many tokens.
        name: train or eval, for errors.
        skip: leave out rows that have nothing to learn within max_length instead of refusing them.

    Raises:
        DataError: naming the first row that has nothing left to learn, or that the chat template refuses.
    """
    bad: list[tuple[str, EncodedRow]] = []
    refused: dict[int, DataError] = {}
    digest, ids_digest = hashlib.sha256(), hashlib.sha256()
    truncated = last_answer_only = 0

    def encoded_rows() -> Iterator[tuple[list[int], list[int]]]:
        nonlocal truncated, last_answer_only
        for number, row in enumerate(rows, start=1):
            place = row.place or f"{name} row {number}"
            try:
                encoded = encode_row(row, tokenizer, place)
            except DataError as error:
                if not skip:
                    raise
                refused[number - 1] = error
                continue
            learned = encoded.learned[:max_length]
            if not any(learned[1:]):
                bad.append((place, encoded))
                continue
            digest.update(hashed_part(row))
            truncated += len(encoded.ids) > max_length
            last_answer_only += encoded.last_answer_only
            ids = encoded.ids[:max_length]
            ids_digest.update(repr(ids).encode())
            yield ids, [token if one else IGNORED for token, one in zip(ids, learned, strict=True)]

    columns: tuple[Any, Any]
    if isinstance(rows, DiskRows):
        dataset = write_tokens(encoded_rows())
        columns = dataset["input_ids"], dataset["labels"]
    else:
        pairs = [*encoded_rows()]
        columns = tuple(ids for ids, _ in pairs), tuple(labels for _, labels in pairs)
    if bad and not (skip and len(columns[0])):
        raise _nothing_learned(bad, max_length)
    if refused and not len(columns[0]):
        raise next(iter(refused.values()))
    skipped = tuple(f"{place}: its completion begins after {row.start} tokens" for place, row in bad)
    skipped += tuple(f"{error.place}: {error.what}" for error in refused.values())
    return TokenizedSplit(
        columns[0], columns[1], digest.hexdigest()[:16], truncated, skipped, last_answer_only, frozenset(refused),
        ids_digest.hexdigest()[:16],
    )  # fmt: skip


def encode_splits(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, max_length: int, *, skip: bool = False
) -> tuple[Rows, TokenizedSplit, TokenizedSplit]:
    """Both splits as `encode` gives them, and the rows without those that the chat template refuses.

    Raises:
        DataError: as `encode` does.
    """
    train = encode(rows.train, tokenizer, max_length, "train", skip=skip)
    evaluation = encode(rows.eval, tokenizer, max_length, "eval", skip=skip)
    kept = dataclasses.replace(rows, train=_without(rows.train, train), eval=_without(rows.eval, evaluation))
    return kept, train, evaluation


def _without(rows: Sequence[Row], encoded: TokenizedSplit) -> Sequence[Row]:
    if not encoded.refused:
        return rows
    left = (row for number, row in enumerate(rows) if number not in encoded.refused)
    if not isinstance(rows, DiskRows):
        return tuple(left)
    kept = DiskRows()
    for row in left:
        kept.append(row)
    return kept


def check_vocabulary(data: TokenizedSplit, pad_id: int, model: Any) -> None:
    """Raise a DataError for token ids that the model has no embedding for: its tokenizer is another model's."""
    known = len(model.get_input_embeddings().weight)
    highest = max(chain([pad_id], map(max, data.input_ids)))
    if highest >= known:
        raise DataError(
            "model",
            f"its tokenizer makes token ids up to {highest}, and it has embeddings for {known}.",
            "Take the tokenizer that came with these weights.",
        )


def _nothing_learned(bad: list[tuple[str, EncodedRow]], max_length: int) -> DataError:
    place, row = bad[0]
    length = len(row.ids)
    if row.start >= length:
        return DataError(
            place,
            "the chat template leaves no token of its answer.",
            "Look at the template in the model's folder; lorascope preview shows what it makes of a row.",
        )
    return DataError(
        place,
        f"its completion begins after {row.start} tokens, and train.max_length is {max_length}.",
        f"Nothing of it would be learned: train.max_length={length} keeps all of it; or shorten the row, "
        f"or dataset.on_bad_row=skip ({len(bad)} such rows).",
    )


def encode_row(row: Row, tokenizer: PreTrainedTokenizerBase, place: str) -> EncodedRow:
    """Tokenize one row; all of a text is learned, of a conversation the answers and the tokens that end them.

    Raises:
        DataError: when the chat template refuses the row.
    """
    if row.text:
        eos = tokenizer.eos_token or ""
        ids = tokenizer(row.text if row.text.endswith(eos) else row.text + eos)["input_ids"]
        return EncodedRow(ids, [True] * len(ids))
    check_shown(row, tokenizer, place)
    try:
        return _by_marks(row, tokenizer) if is_marked(row, tokenizer) else _by_prefixes(row, tokenizer)
    except Exception as error:  # a template raises whatever its author chose
        raise DataError(
            place,
            f"the chat template refuses this row{_turn_order(row)}: {str(error).strip() or type(error).__name__}",
            "Correct the row's turns, or the template in the model's folder; or dataset.on_bad_row=skip.",
        ) from error


def _turn_order(row: Row) -> str:
    """What is unusual about the order of the turns."""
    roles = [message.role for message in row.messages if message.role != "system"]
    if roles[:1] == ["assistant"]:
        return " (its first message is the assistant's)"
    twice = next((role for role, other in pairwise(roles) if role == other), None)
    return f" (two messages of the {twice} in a row)" if twice else ""


def prompt_ids(row: Row, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids up to where the last answer begins."""
    return _render(row, len(row.messages) - 1, tokenizer, ask=True)


def _by_marks(row: Row, tokenizer: PreTrainedTokenizerBase) -> EncodedRow:
    """Learn what the template's generation marks cover, but no answer of weight 0."""
    turns, options = rendering(row, tokenizer)
    marked = tokenizer.apply_chat_template(
        turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, **options
    )
    learned = [bool(one) for one in marked["assistant_masks"]]
    for index, message in enumerate(row.messages):
        if message.role == "assistant" and not message.learned:
            start, stop = (len(_render(row, end, tokenizer)) if end else 0 for end in (index, index + 1))
            learned[start:stop] = [False] * (stop - start)
    return EncodedRow(marked["input_ids"], learned)


def _by_prefixes(row: Row, tokenizer: PreTrainedTokenizerBase) -> EncodedRow:
    """Find each answer as what it adds to the conversation before it, for templates that do not mark answers."""
    ids = _render(row, len(row.messages), tokenizer)
    learned = [False] * len(ids)
    last = len(row.messages) - 1
    answers = [index for index, one in enumerate(row.messages) if one.role == "assistant" and one.learned]
    for index in answers if row.every_answer else [last]:
        stop = len(ids)
        if index < last:
            up_to = _render(row, index + 1, tokenizer)
            stop = len(up_to)
            if up_to != ids[:stop]:  # some templates drop or rewrite earlier answers
                last_only = _by_prefixes(dataclasses.replace(row, every_answer=False), tokenizer)
                return dataclasses.replace(last_only, last_answer_only=True)
        asked = _render(row, index, tokenizer, ask=True)
        # a template may render a prompt differently once it is answered
        differs = (place for place, (one, other) in enumerate(zip(asked, ids, strict=False)) if one != other)
        start = next(differs, min(len(asked), len(ids)))
        learned[start:stop] = [True] * (stop - start)
    return EncodedRow(ids, learned)


def _render(row: Row, count: int, tokenizer: PreTrainedTokenizerBase, *, ask: bool = False) -> list[int]:
    """Token ids of the first messages of a conversation; with `ask`, up to the place where an answer begins."""
    ids: list[int]
    row = dataclasses.replace(row, messages=row.messages[:count])
    if tokenizer.chat_template:
        turns, options = rendering(row, tokenizer)
        options |= {"tokenize": True, "return_dict": True, "add_generation_prompt": ask}
        ids = tokenizer.apply_chat_template(turns, **options)["input_ids"]
    else:  # a base model: a line for each message, and the end of the text after each answer
        ends = {"assistant": tokenizer.eos_token or "\n"}
        ids = tokenizer("".join(m.content + ends.get(m.role, "\n") for m in row.messages))["input_ids"]
    return ids


def padded(
    data: TokenizedSplit, rows: Sequence[int], pad_id: int, device: torch.device | str
) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask` and `labels` of some rows, each (rows, longest row); padding is IGNORED."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.tensor(data.input_ids[row]) for row in rows]
    labels = [torch.tensor(data.labels[row]) for row in rows]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_id).to(device),
        "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True).to(device),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED).to(device),
    }
