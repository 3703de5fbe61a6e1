"""A look at runs before the first of them: what each would train and take; nothing of a base is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorascope.config import RunConfig
from lorascope.errors import LorascopeError
from lorascope.wording import megabytes

if TYPE_CHECKING:
    from lorascope.data.size import Size
    from lorascope.targets.plan import TargetPlan


@dataclass(frozen=True)
class Look:
    """What a run would train and take; or why it cannot be."""

    plan: TargetPlan | None = None  # None where the base's weights decide
    memory: int | None = None
    size: Size | None = None  # of its data; None where rows are taken to be as long as they may
    error: LorascopeError | None = None

    @property
    def memory_words(self) -> str:
        """For a table: about so much, or a bound of it."""
        if self.memory is None:
            return "-"
        return f"{'~' if self.size and self.size.longest else 'up to'} {megabytes(self.memory)}"


class Scout:
    """Looks at runs before the first of them; what many share is read once."""

    def __init__(self) -> None:
        self.models: dict[str, Any] = {}  # modules and shapes, by the model's settings
        self._tokenizers: dict[str, Any] = {}
        self._sizes: dict[str, Size | None] = {}

    def look(self, config: RunConfig) -> Look:
        """Plan a run, whose config is resolved; no weights are loaded."""
        from lorascope.estimate.fit import with_checkpointing
        from lorascope.estimate.memory import estimate_memory
        from lorascope.libraries import importing
        from lorascope.models.quiet import hush
        from lorascope.records.memory import free_gpu_bytes
        from lorascope.targets.module_map import read_model
        from lorascope.targets.plan import plan_targets

        try:
            with importing():
                hush()
            key = str(config.model)
            if key not in self.models:
                with importing():
                    self.models[key] = read_model(config.model)
            modules, shapes = self.models[key]
            if config.target.auto.method is not None:
                return Look(size=self.size(config))
            plan = plan_targets(config.target, modules)
            rows = self.longest(config)
            config = with_checkpointing(config, shapes, plan, free_gpu_bytes(str(config.device)), **rows)
            return Look(plan, estimate_memory(config, shapes, plan, **rows).total, self.size(config))
        except LorascopeError as error:
            return Look(error=error)

    def longest(self, config: RunConfig) -> dict[str, Any]:
        """Tokens of the longest row, for an estimate of memory; nothing where only the bound is known."""
        size = self.size(config)
        if size is None or config.train.packing:  # whose rows are as long as max_length
            return {}
        return {"length": size.longest, "supervised": size.supervised}

    def mean(self, config: RunConfig) -> dict[str, Any]:
        """Tokens of a row on average, rows, and tokens of them all, for an estimate of arithmetic; nothing likewise."""
        if not (size := self.size(config)):
            return {}
        tokens = min(size.tokens, size.rows * config.train.max_length)
        return {"length": max(1, round(tokens / size.rows)), "rows": size.rows, "tokens": tokens}

    def size(self, config: RunConfig) -> Size | None:
        """Of the run's data, where it can be measured on this machine."""
        from lorascope.data.size import size_of
        from lorascope.models.loading import tokenizer_at_hand

        model, dataset = str(config.model), str(config.dataset)
        if model not in self._tokenizers:
            self._tokenizers[model] = tokenizer_at_hand(config.model)
        key = f"{model} {dataset}"
        if key not in self._sizes:
            self._sizes[key] = size_of(config.dataset, self._tokenizers[model])
        return self._sizes[key]
