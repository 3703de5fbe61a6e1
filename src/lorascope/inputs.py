"""What a run starts from: base, rows and token ids, loaded and described for the record."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from lorascope.config import Auto, Init, OnBadRow, RunConfig
from lorascope.data.card import data_card
from lorascope.data.notes import data_notes
from lorascope.data.prompts import prompt_batches
from lorascope.data.rows import Rows, rows_hash, shared_prompts
from lorascope.data.size import Size
from lorascope.data.sources import load_rows
from lorascope.data.tokens import IGNORED, Encoded, encode
from lorascope.models.architecture import architecture_notes
from lorascope.models.loading import Base
from lorascope.terminal import warn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Inputs:
    """A frozen base, and what it is taught and asked."""

    base: Base
    rows: Rows
    train: Encoded
    evaluation: Encoded

    @property
    def pad_id(self) -> int:
        """Fills short rows."""
        return int(self.base.tokenizer.pad_token_id or 0)

    @property
    def size(self) -> Size:
        """How large these very rows are."""
        longest = max(len(ids) for half in (self.train, self.evaluation) for ids in half.input_ids)
        every = chain(self.train.labels, self.evaluation.labels)
        supervised = max(sum(label != IGNORED for label in labels) for labels in every)
        return Size(len(self.train), self.train.tokens, longest, supervised)

    def prompts(self, config: RunConfig) -> list[dict[str, Any]]:
        """What placement and start read of the train rows, as batches; nothing where they read none."""
        target = config.target
        if target.auto.method not in (Auto.plop, Auto.eva) and target.init is not Init.eva:
            return []
        return prompt_batches(self.train, target.auto.prompts, self.pad_id, self.base.model.device)

    def entry(self) -> dict[str, Any]:
        """The data as a record keeps it."""
        rows = self.rows
        return {
            "origin": rows.origin,
            "shape": rows.shape,
            "skipped": len(rows.skipped),
            "train": _half(self.train),
            "eval": _half(self.evaluation),
            "sets": {name: {"rows": len(asked), "hash": rows_hash(asked)} for name, asked in rows.probes.items()},
            "eval_prompts_in_train": len(shared_prompts(rows)),
            "card": data_card(rows, self.train, self.evaluation),
        }


@dataclass(frozen=True)
class Data:
    """Rows and their token ids."""

    rows: Rows
    train: Encoded
    evaluation: Encoded


def load_data(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> Data:
    """What a resolved config's runs are taught and asked.

    Raises:
        DataError: when it cannot be had, or holds nothing to learn.
    """
    rows = load_rows(config.dataset)
    skip = config.dataset.on_bad_row is OnBadRow.skip
    train = encode(rows.train, tokenizer, config.train.max_length, "train", skip=skip)
    return Data(rows, train, encode(rows.eval, tokenizer, config.train.max_length, "eval", skip=skip))


def show_notes(config: RunConfig, base: Base, data: Data) -> None:
    """What a user should know of base and data before the training."""
    notes = data_notes(data.rows, data.train, data.evaluation)
    for note in (*notes, *architecture_notes(base.model.config, config.model)):
        warn(note)


def _half(data: Encoded) -> dict[str, Any]:
    return {
        "rows": len(data),
        "tokens": data.tokens,
        "supervised_tokens": data.supervised_tokens,
        "hash": data.hash,
        "truncated": data.truncated,
        "skipped": len(data.skipped),
    }
