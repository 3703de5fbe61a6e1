"""Answer a task's eval sets and score them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lorascope.config.schema import EvaluationConfig
from lorascope.data.prompts import Question, choices, questions
from lorascope.data.rows import Rows, some
from lorascope.data.tokenization import IGNORED, TokenizedSplit
from lorascope.evaluation.answers import ends_of, generate, right_answer, score_choices, unwrapped
from lorascope.evaluation.loss import Loss, evaluating, item_losses
from lorascope.evaluation.metrics import Answer, Needs, TaskMetric, interval, value_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


MAIN = "eval"  # the set whose metrics bear no set's name
KnownLosses = tuple[TokenizedSplit, Sequence[Loss]]  # of rows that were measured just before
LONGER = 1.5  # how much longer than the longest right answer a written one may be


@dataclass(frozen=True)
class Score:
    """A metric over one set's items, with its 95 % interval over them where they tell one."""

    value: float
    items: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Evaluated:
    """Scores by metric, `METRIC` for the eval half and `METRIC/SET` for other sets, and the answers by set."""

    scores: Mapping[str, Score] = field(default_factory=dict)
    answers: Mapping[str, tuple[Answer, ...]] = field(default_factory=dict)

    def values(self) -> dict[str, float]:
        """Every score as trackers take it."""
        return {name: score.value for name, score in self.scores.items()}


@dataclass(eq=False)
class Suite:
    """A data set's metrics, ready to be measured on any model with its tokenizer.

    Raises:
        DataError: when the chat template refuses a row.
    """

    rows: Rows  # the eval half and the probes are asked; the train half only gives the most frequent class
    metrics: Sequence[TaskMetric]  # nothing is computed that none of them needs
    tokenizer: PreTrainedTokenizerBase
    settings: EvaluationConfig  # `max_samples` items of each set, the same ones every time
    sets: dict[str, list[Question]] = field(init=False)  # by name, none of them empty

    def __post_init__(self) -> None:
        sets = {MAIN: self.rows.eval, **self.rows.probes} if self.metrics else {}
        asked = {name: questions(some(rows, self.settings.max_samples), self.tokenizer) for name, rows in sets.items()}
        self.sets = {name: found for name, found in asked.items() if found}

    @property
    def steps(self) -> int:
        """Items that one evaluation answers, each as often as there are kinds of answers."""
        return sum(len(found) * sum(self._asks(name, need) for need in Needs) for name, found in self.sets.items())

    def _asks(self, name: str, need: Needs) -> bool:
        needed = any(metric.needs is need for metric in self.metrics)
        return needed and (need is not Needs.choice or bool(self._labels(name)))

    def _labels(self, name: str) -> tuple[str, ...]:
        return self.rows.labels_of.get(name, self.rows.labels)

    def metrics_of(self, name: str) -> list[TaskMetric]:
        """The metrics that apply to a set."""
        return [metric for metric in self.metrics if self._asks(name, metric.needs)]

    def names(self) -> dict[str, TaskMetric]:
        """All that is measured: the metric's name, with the set's where it is not the eval half."""
        return {label(metric, name): metric for name in self.sets for metric in self.metrics_of(name)}

    def evaluate(
        self,
        model: Any,
        known: KnownLosses | None = None,
        progress: Callable[[int], object] = lambda items: None,
    ) -> Evaluated:
        """Ask the model everything; it is left as it was, mode and weights.

        Args:
            model: with or without an adapter.
            known: they are not measured again.
            progress: called with the number of items answered since the last call; they come to `steps`.
        """
        with evaluating(model):
            answers = {name: self._answer(model, name, known, progress) for name in self.sets}
        scores = {}
        for name, found in answers.items():
            for metric in self.metrics_of(name):
                low, high = interval(metric, found) or (None, None)
                scores[label(metric, name)] = Score(value_of(metric, found), len(found), low, high)
        return Evaluated(scores, answers)

    def _answer(
        self, model: Any, name: str, known: KnownLosses | None, progress: Callable[[int], object]
    ) -> tuple[Answer, ...]:
        asked, pad_id = self.sets[name], int(self.tokenizer.pad_token_id or 0)
        batch: dict[str, Any] = {"batch_tokens": self.settings.batch_tokens, "progress": progress}
        fields: dict[str, Sequence[Any]] = {}  # of `Answer`, a value for each question
        if self._asks(name, Needs.choice):
            labels = self._labels(name)
            scores = score_choices(
                model, choices(asked, labels, self.tokenizer), pad_id=pad_id, every=self.settings.every_label, **batch
            )
            fields |= {"scores": scores, "choice": [labels[each.index(max(each))] for each in scores]}
        if self._asks(name, Needs.text):
            fields["text"] = self._written(model, name, batch)
        if self._asks(name, Needs.loss):
            losses = self._losses(model, asked, known, pad_id, batch)
            fields |= {"nats": [loss.nats for loss in losses], "tokens": [loss.tokens for loss in losses]}
        return tuple(
            self._answered(question, **{field: values[number] for field, values in fields.items()})
            for number, question in enumerate(asked)
        )

    def longest_answer(self, name: str) -> int | None:
        """Tokens that a written answer to a set's questions may have; None where there is no such set."""
        if self.settings.max_new_tokens or name not in self.sets:
            return self.settings.max_new_tokens
        return round(LONGER * max(len(question.answer) for question in self.sets[name]))

    def _written(self, model: Any, name: str, batch: Mapping[str, Any]) -> list[str]:
        asked = self.sets[name]
        answers = [question.answer for question in asked]
        texts = generate(
            model,
            self.tokenizer,
            [question.prompt for question in asked],
            max_new_tokens=self.longest_answer(name) or 0,
            ends=ends_of(model, self.tokenizer, answers),
            **batch,
        )
        return [
            unwrapped(text, right_answer(question, self.tokenizer), question.answer, self.tokenizer)
            for text, question in zip(texts, asked, strict=True)
        ]

    def _losses(
        self, model: Any, asked: Sequence[Question], known: KnownLosses | None, pad_id: int, batch: Mapping[str, Any]
    ) -> Sequence[Loss]:
        ids = tuple([*question.prompt, *question.answer] for question in asked)
        labels = tuple([IGNORED] * len(question.prompt) + question.answer for question in asked)
        if known and list(known[0].input_ids) == list(ids) and list(known[0].labels) == list(labels):
            batch["progress"](len(asked))
            return known[1]
        return item_losses(model, TokenizedSplit(ids, labels, ""), pad_id=pad_id, **batch)

    def _answered(self, question: Question, **fields: Any) -> Answer:
        row, gold = question.row, right_answer(question, self.tokenizer)
        return Answer(row.question, gold, row.accepted, row.group, **fields)

    def baselines(self) -> dict[str, dict[str, float]]:
        """What answers without any model would score: always the most frequent class, or the question itself."""
        found: dict[str, dict[str, float]] = {}
        for name, asked in self.sets.items():
            if labels := self._labels(name):
                seen = Counter(row.completion for row in self.rows.train if row.completion in labels)
                usual = seen.most_common(1)[0][0] if seen else labels[0]
                title, made = "majority class", [self._answered(one, text=usual, choice=usual) for one in asked]
            else:
                title, made = "copy", [self._answered(one, text=one.row.question) for one in asked]
            for metric in self.metrics_of(name):
                if metric.needs is not Needs.loss:
                    found[label(metric, name)] = {title: value_of(metric, made)}
        return found


def label(metric: TaskMetric, name: str) -> str:
    """A metric's name in records: with the set's, where it is not the eval half."""
    return metric.name if name == MAIN else f"{metric.name}/{name}"
