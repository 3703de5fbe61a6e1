"""Metrics while a run trains: on a fixed sample of the eval half, so that they cost little."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lorascope.config.schema import RunConfig
from lorascope.data.rows import Rows, some
from lorascope.data.tokenization import TokenizedSplit
from lorascope.errors import ConfigError
from lorascope.evaluation.external_metrics import metrics_of
from lorascope.evaluation.forgetting import FORGETTING_KL, FORGETTING_LOSS, divergence
from lorascope.evaluation.loss import eval_loss
from lorascope.evaluation.measure import Measure
from lorascope.evaluation.tasks import MAIN, Suite
from lorascope.records.record import EVAL_LOSS, SAMPLE, Metric

FORGETTING = {metric.name: metric for metric in (FORGETTING_KL, FORGETTING_LOSS)}


def key_of(metric: str) -> str:
    """What a metric is called among what is measured while training: the eval loss is that of the whole half."""
    return metric if metric == EVAL_LOSS.name else f"{SAMPLE}{metric}"


def kept_metric(config: RunConfig) -> str | None:
    """The metric by which `train.keep_best` chooses; None where it keeps nothing."""
    keep = config.train.keep_best
    return (EVAL_LOSS.name if keep is True else str(keep)) if keep else None


def ruling(config: RunConfig) -> list[str]:
    """The metrics that decide which checkpoint is kept, or when the training ends."""
    return [name for name in (kept_metric(config), config.train.stop_early.metric) if name]


@dataclass
class SampledMetrics:
    """Metrics of the model in training, on the same items every time.

    Args:
        suite: of the sample alone, with the metrics that are wanted.
        forgetting: which of forgetting's metrics are wanted.
        texts: on which they are measured.
        share: of the training's time that they may take; None where a rule depends on them, and none may be left out.
    """

    suite: Suite
    forgetting: Sequence[str]
    texts: TokenizedSplit | None
    pad_id: int
    share: float | None
    began: float = field(default_factory=time.perf_counter)
    spent: float = 0.0
    skipped: int = 0

    def metrics(self) -> dict[str, Metric]:
        """What is measured, by the key that it is logged by."""
        found: dict[str, Metric] = {**self.suite.names(), **{name: FORGETTING[name] for name in self.forgetting}}
        return {key_of(name): metric for name, metric in found.items()}

    def measure(self, model: Any, progress: Callable[[int], object]) -> dict[str, float]:
        """The values now, by key; nothing where their share of the time is used up."""
        start = time.perf_counter()
        if self.share is not None and self.spent > self.share * (start - self.began):
            self.skipped += 1
            return {}
        found = {name: score.value for name, score in self.suite.evaluate(model, None, progress).scores.items()}
        batch: dict[str, Any] = {"pad_id": self.pad_id, "batch_tokens": self.suite.settings.batch_tokens}
        if self.texts is not None and FORGETTING_KL.name in self.forgetting:
            found[FORGETTING_KL.name] = divergence(model, self.texts, *batch.values())
        if self.texts is not None and FORGETTING_LOSS.name in self.forgetting:
            found[FORGETTING_LOSS.name] = eval_loss(model, self.texts, **batch, progress=progress).mean
        self.spent += time.perf_counter() - start
        return {key_of(name): value for name, value in found.items()}


def sampled_metrics(config: RunConfig, measure: Measure, rows: Rows) -> SampledMetrics | None:
    """What is measured at each of `train.eval_steps` besides the eval loss; None where nothing is.

    Args:
        config: resolved.
        measure: what is measured at the end; the sample is of its items and texts.
        rows: the data set's.

    Raises:
        ConfigError: for a metric that this data set does not have.
    """
    names = [name for name in dict.fromkeys([*config.train.eval_metrics, *ruling(config)]) if name != EVAL_LOSS.name]
    if not names:
        return None
    count = config.train.eval_samples
    sample = some(some(rows.eval, config.evaluation.max_samples), count)
    suite = Suite(
        dataclasses.replace(rows, eval=sample, probes={}),
        metrics_of([name for name in names if name not in FORGETTING]),
        measure.tokenizer,
        dataclasses.replace(config.evaluation, max_samples=None, max_new_tokens=measure.suite.longest_answer(MAIN)),
    )
    texts = measure.texts and first_texts(measure.texts, count)
    found = SampledMetrics(
        suite,
        [name for name in names if name in FORGETTING],
        texts,
        measure.pad_id,
        None if any(name != EVAL_LOSS.name for name in ruling(config)) else config.train.eval_share,
    )
    for name in names:
        what = ""
        if key_of(name) not in found.metrics() or (name in FORGETTING and texts is None):
            what = f"{name} cannot be measured on this data."
        elif name == FORGETTING_KL.name and not measure.comparable:
            what = f"{name} cannot be measured: init={config.target.init} or trained biases have changed the base."
        if what:
            raise ConfigError("train.eval_metrics", what, "Leave it out, or take another.")
    return found


def first_texts(texts: TokenizedSplit, count: int) -> TokenizedSplit:
    """The first few of some texts."""
    return TokenizedSplit(tuple(texts.input_ids[:count]), tuple(texts.labels[:count]), "")


@dataclass
class EvalRules:
    """Which evaluation was the best so far, and whether the metric has stopped improving.

    Args:
        keep: the metric whose best step is kept.
        stop: the metric that the training ends by.
        patience: how many evaluations in a row without a better value end it.
        better: by metric, lower or higher.
    """

    keep: str | None = None
    stop: str | None = None
    patience: int = 3
    better: Mapping[str, str] = field(default_factory=dict)
    best: dict[str, Any] | None = None  # step, and the values that were measured there
    stop_best: float | None = None
    waited: int = 0

    @classmethod
    def of(cls, config: RunConfig, better: Mapping[str, str]) -> EvalRules:
        """The rules of a run."""
        early = config.train.stop_early
        return cls(kept_metric(config), early.metric, early.patience, better)

    def see(self, values: Mapping[str, float], step: int) -> bool:
        """Take in an evaluation; whether it is the best so far, by `keep`."""
        if self.stop:
            if self._improves(self.stop, values[key_of(self.stop)], self.stop_best):
                self.stop_best, self.waited = values[key_of(self.stop)], 0
            else:
                self.waited += 1
        if not self.keep or not self._improves(self.keep, values[key_of(self.keep)], self._kept()):
            return False
        self.best = {key_of(self.keep): values[key_of(self.keep)], "step": step}
        return True

    @property
    def stops(self) -> bool:
        """Whether the training is to end."""
        return self.stop is not None and self.waited >= self.patience

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of them."""
        return {"best": self.best, "stop": {"best": self.stop_best, "waited": self.waited}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.best = state["best"]
        stop = state.get("stop") or {}
        self.stop_best, self.waited = stop.get("best"), int(stop.get("waited", 0))

    def _kept(self) -> float | None:
        return None if self.best is None or self.keep is None else self.best.get(key_of(self.keep))

    def _improves(self, metric: str, value: float, before: float | None) -> bool:
        higher = self.better.get(metric, EVAL_LOSS.better) == "higher"
        if math.isnan(value):
            return False
        return before is None or (value > before if higher else value < before)
