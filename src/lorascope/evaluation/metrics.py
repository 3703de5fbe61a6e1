"""Metrics, each declared once with direction and unit, and their intervals over items."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lorascope.data.builtin.kjv_style import is_archaic
from lorascope.records.record import Metric


@dataclass(frozen=True)
class Answer:
    """An item of a set, answered. What no metric asks for stays empty."""

    prompt: str
    gold: str
    accepted: tuple[str, ...] = ()  # further right answers
    group: str = ""
    choice: str = ""  # the most likely label
    scores: tuple[float, ...] = ()  # log-probability of each label, in nats; -inf: it cannot be the likeliest
    text: str = ""  # what the model wrote
    nats: float = 0.0  # loss of the right answer, summed over its tokens
    tokens: int = 0

    @property
    def right(self) -> tuple[str, ...]:
        """All right answers."""
        return (self.gold, *self.accepted)


WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def archaic_rate(text: str) -> float:
    """The share of a text's words that are archaic, in [0, 1]; 0 where there is no word."""
    words = WORD.findall(text)
    return sum(map(is_archaic, words)) / len(words) if words else 0.0


LEVEL = 0.95


def interval(metric: TaskMetric, answers: Sequence[Answer]) -> tuple[float, float] | None:
    """Low and high end over the items; None where fewer than two, or values that are no numbers, tell nothing.

    Shares have Wilson's interval (Wilson, 1927), which holds at none and all; everything else the percentile bootstrap
    over items (Efron, 1979), with the same resamples every time.
    """
    import numpy
    from scipy import stats

    scores = numpy.array([metric.score(answer) for answer in answers])
    if len(scores) < 2 or not numpy.isfinite(scores).all():
        return None
    if metric.whole is None and set(scores.tolist()) <= {0.0, 1.0}:
        found = stats.binomtest(int(scores.sum()), len(scores)).proportion_ci(LEVEL, method="wilson")
        return float(found.low), float(found.high)
    resamples = 1000 if metric.whole is None else 300  # each of which takes milliseconds
    draws = numpy.random.default_rng(0).integers(len(scores), size=(resamples, len(scores)))
    if metric.whole is None:
        values = scores[draws].mean(axis=1)
    else:
        values = numpy.array([metric.whole([answers[index] for index in draw]) for draw in draws])
    low, high = numpy.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


class Needs(StrEnum):
    """What of an answer a metric reads, and the evaluation therefore has to make."""

    choice = "choice"  # the most likely label
    text = "text"  # what the model writes
    loss = "loss"  # the right answer's likelihood


@dataclass(frozen=True)
class TaskMetric(Metric):
    """A metric over the items of a set: each item's score, and what they come to; their mean, if nothing is said."""

    needs: Needs
    score: Callable[[Answer], float]
    whole: Callable[[Sequence[Answer]], float] | None = None


def _normal(text: str) -> str:
    """Without case, outer and double spaces, and what ends a sentence."""
    return " ".join(text.casefold().split()).rstrip(".!?, ")


def _exact_match(answer: Answer) -> float:
    """1 where the written text is a right answer, apart from case, spaces and a full stop."""
    return float(_normal(answer.text) in {_normal(right) for right in answer.right})


def _macro_f1(answers: Sequence[Answer]) -> float:
    """The mean over the right labels of each label's F1, by the label with the highest log-probability."""
    from sklearn.metrics import f1_score

    right = [answer.gold for answer in answers]
    chosen = [answer.choice for answer in answers]
    return float(f1_score(right, chosen, labels=sorted(set(right)), average="macro", zero_division=0.0))


def _chrf(text: str, answer: Answer) -> float:
    """Character n-gram F-score of a text against the right answer, 0 to 100 (Popović, 2015)."""
    from sacrebleu import sentence_chrf

    return float(sentence_chrf(text, list(answer.right)).score)


NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def _final_number(answer: Answer) -> float:
    """1 where the last number of the written text is the last one of a right answer."""
    written = _last_number(answer.text)
    return float(written is not None and written in {_last_number(right) for right in answer.right})


def _last_number(text: str) -> float | None:
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def _chosen(answer: Answer) -> float:
    """1 where the label with the highest log-probability is a right answer."""
    return float(answer.choice in answer.right)


SHARE = "share of items"
TASK_METRICS = {
    metric.name: metric
    for metric in (
        TaskMetric("accuracy", "higher", SHARE, Needs.choice, _chosen),
        TaskMetric("macro_f1", "higher", "F1", Needs.choice, _chosen, _macro_f1),
        TaskMetric("exact_match", "higher", SHARE, Needs.text, _exact_match),
        TaskMetric("final_number", "higher", SHARE, Needs.text, _final_number),
        TaskMetric("gold_logprob", "higher", "nats/answer", Needs.loss, lambda answer: -answer.nats),
        TaskMetric("chrf", "higher", "chrF", Needs.text, lambda answer: _chrf(answer.text, answer)),
        TaskMetric(  # over what the question itself would score
            "chrf_gain", "higher", "chrF", Needs.text,
            lambda answer: _chrf(answer.text, answer) - _chrf(answer.prompt, answer),
        ),
        TaskMetric("archaic_rate", "higher", "share of words", Needs.text, lambda answer: archaic_rate(answer.text)),
    )
}  # fmt: skip


def value_of(metric: TaskMetric, answers: Sequence[Answer]) -> float:
    """What the metric comes to over these answers."""
    if metric.whole is not None:
        return metric.whole(answers)
    return math.fsum(metric.score(answer) for answer in answers) / len(answers)
