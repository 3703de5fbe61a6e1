"""Measure a model before and after training: eval loss, task metrics, forgetting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.base.loading import Base
from lorascope.config.schema import Bias, EvaluationConfig, Init, RunConfig, as_dict
from lorascope.data.rows import Rows, rows_hash
from lorascope.data.tokenization import TokenizedSplit
from lorascope.evaluation import predictions
from lorascope.evaluation.external_metrics import metrics_of, run_harness
from lorascope.evaluation.forgetting import FORGETTING_KL, FORGETTING_LOSS, divergence, texts_of
from lorascope.evaluation.loss import eval_loss, item_losses, total
from lorascope.evaluation.predictions import keep, place
from lorascope.evaluation.tasks import Evaluated, Score, Suite
from lorascope.records.record import EVAL_LOSS, Metric

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Measure:
    """What is measured, and on what."""

    settings: EvaluationConfig
    tokenizer: PreTrainedTokenizerBase
    evaluation: TokenizedSplit
    suite: Suite
    texts: TokenizedSplit | None  # not the task's
    comparable: bool  # whether the adapter, switched off, leaves the base
    harness: dict[str, Metric] = field(default_factory=dict)  # of lm-eval, which names them when it has measured

    @property
    def steps(self) -> int:
        """What a measurement's progress comes to."""
        return len(self.evaluation) + self.suite.steps

    @property
    def pad_id(self) -> int:
        """Fills short rows."""
        return int(self.tokenizer.pad_token_id or 0)

    def base(self, model: Any, progress: Callable[[int], object], file: Path | None = None) -> Evaluated:
        """The base's scores and answers, measured or cached in `file`, which `remembered_at` names."""
        cached = predictions.read(file) if file else None
        if cached and predictions.BASE in cached:
            return cached[predictions.BASE]
        found = self._measured(model, progress)
        keep(file, lambda aside: predictions.write(aside, {predictions.BASE: found}, self.suite))
        return found

    def remembered_at(self, config: RunConfig, revision: str) -> Path | None:
        """Where this base's answers to these very questions are cached; None where nothing may be."""
        names = config.dataset.metrics if config.evaluation.tasks else []
        if self.settings.forgetting.path or any(":" in name and "@" not in name for name in names):
            return None  # a corpus or a module may change without a name for it
        asked = {name: rows_hash([question.row for question in found]) for name, found in self.suite.sets.items()}
        accepted = [question.row.accepted for found in self.suite.sets.values() for question in found]
        split = [self.evaluation.hash, config.train.max_length]
        return place("answers", config, revision, names, split, asked, accepted, as_dict(self.settings))

    def adapted(self, model: Any, progress: Callable[[int], object]) -> Evaluated:
        """The adapted model's, and how far it is from the base."""
        found = self._measured(model, progress)
        if self.texts is None or not self.comparable:
            return found
        apart = divergence(model, self.texts, self.pad_id, self.settings.batch_tokens)
        return Evaluated({**found.scores, FORGETTING_KL.name: Score(apart, len(self.texts))}, found.answers)

    def _measured(self, model: Any, progress: Callable[[int], object]) -> Evaluated:
        batch: dict[str, Any] = {"pad_id": self.pad_id, "batch_tokens": self.settings.batch_tokens}
        items = item_losses(model, self.evaluation, progress=progress, **batch)
        found = self.suite.evaluate(model, (self.evaluation, items), progress)
        metrics, scores = run_harness(model, self.tokenizer, self.settings)
        self.harness.update(metrics)
        scores = {**found.scores, EVAL_LOSS.name: Score(total(items).mean, len(items)), **scores}
        if self.texts is not None:
            scores[FORGETTING_LOSS.name] = Score(eval_loss(model, self.texts, **batch).mean, len(self.texts))
        return Evaluated(scores, found.answers)

    def keep_answers(self, before: Evaluated, after: Evaluated, folder: Path, warn: Callable[[str], object]) -> None:
        """Write every item's answer beside the record, of base and adapter, where they are wanted."""
        if self.settings.predictions and self.suite.sets:
            self.keep(folder / predictions.FILE, {predictions.BASE: before, predictions.ADAPTED: after}, warn)

    def keep(self, file: Path, stages: Mapping[str, Evaluated], warn: Callable[[str], object]) -> None:
        """Write answers; a full disk costs them, not the run."""
        try:
            predictions.write(file, stages, self.suite)
        except OSError as error:
            warn(f"{file.name} could not be written ({error.strerror}); the record goes on without it")

    def metrics(self) -> dict[str, Metric]:
        """Everything that is measured, by the name that records have."""
        forgetting = [FORGETTING_LOSS, *([FORGETTING_KL] if self.comparable else [])] if self.texts else []
        return {metric.name: metric for metric in (EVAL_LOSS, *forgetting)} | self.suite.names() | self.harness

    def entries(self, before: Evaluated, after: Evaluated) -> dict[str, dict[str, Any]]:
        """Each metric as a record keeps it: value and base, intervals over items, what needs no model to be reached."""
        trivial = self.suite.baselines()
        return {
            name: _entry(metric, after.scores[name], before.scores.get(name), trivial.get(name, {}))
            for name, metric in self.metrics().items()
            if name in after.scores
        }


def measure_of(config: RunConfig, base: Base, rows: Rows, evaluation: TokenizedSplit) -> Measure:
    """What a run measures before and after; among it texts that the base writes now.

    Args:
        config: resolved.
        base: the base without an adapter.
        rows: of the data set, with its sets of questions.
        evaluation: its eval half as token ids.
    """
    metrics = metrics_of(config.dataset.metrics) if config.evaluation.tasks else []
    suite = Suite(rows, metrics, base.tokenizer, config.evaluation)
    texts = texts_of(config, base.model, base.tokenizer, base.revision)
    # PiSSA and LoftQ take a part of the weights out of the base, and PEFT leaves trained biases on
    comparable = config.target.init in (Init.lora, Init.eva) and config.target.bias is Bias.none
    return Measure(config.evaluation, base.tokenizer, evaluation, suite, texts, comparable)


def _entry(metric: Metric, after: Score, before: Score | None, trivial: Mapping[str, float]) -> dict[str, Any]:
    entry = metric.entry(after.value, before.value if before else None) | {"items": after.items}
    if after.low is not None:
        entry |= {"low": after.low, "high": after.high}
    if before and before.low is not None:
        entry |= {"base_low": before.low, "base_high": before.high}
    return entry | ({"baselines": dict(trivial)} if trivial else {})
