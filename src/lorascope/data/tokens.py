"""Rows become token ids and labels, through the model's chat template where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorascope.data.rows import Row, rows_hash
from lorascope.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # a label that no loss looks at, as in torch and transformers


@dataclass(frozen=True)
class Encoded:
    """One half of a data set as the model reads it.

    `input_ids[i]` and `labels[i]` have the same length; labels are IGNORED on the prompt.
    """

    input_ids: tuple[list[int], ...]
    labels: tuple[list[int], ...]
    hash: str

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

        return Dataset.from_dict({"input_ids": list(self.input_ids), "labels": list(self.labels)})


def encode(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, half: str) -> Encoded:
    """Token ids and labels of `rows`; the loss is on the completion alone.

    Args:
        max_length: tokens that a row may have; what is beyond is cut off.
        half: train or eval, for the error's words.

    Raises:
        DataError: naming the first row that has nothing left to learn from.
    """
    ids, labels = [], []
    for number, row in enumerate(rows, start=1):
        prompt, whole = _token_ids(row, tokenizer)
        start = _common_prefix(prompt, whole)
        row_ids = whole[:max_length]
        row_labels = ([IGNORED] * start + whole[start:])[:max_length]
        if all(label == IGNORED for label in row_labels[1:]):
            raise DataError(
                f"{half} row {number}",
                f"its completion begins after {start} tokens, and train.max_length is {max_length}.",
                f"Nothing of it would be learned: raise train.max_length to {len(whole)} or more, or shorten the row.",
            )
        ids.append(row_ids)
        labels.append(row_labels)
    return Encoded(tuple(ids), tuple(labels), rows_hash(rows))


def _token_ids(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Ids of the prompt alone, and of prompt and completion."""
    if not tokenizer.chat_template:
        # a base model: the prompt, a line break, the completion, and the end of the text
        prompt = "\n".join(message["content"] for message in row.prompt_messages()) + "\n"
        return tokenizer(prompt)["input_ids"], tokenizer(prompt + row.completion + tokenizer.eos_token)["input_ids"]

    def render(messages: list[dict[str, str]], **options: Any) -> list[int]:
        ids: list[int] = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)[
            "input_ids"
        ]
        return ids

    prompt_ids = render(row.prompt_messages(), add_generation_prompt=True)
    return prompt_ids, render(row.prompt_messages() + row.completion_messages())


def _common_prefix(left: list[int], right: list[int]) -> int:
    """How many leading tokens are the same: a template may render a prompt differently once it is answered."""
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return position
    return min(len(left), len(right))
