"""Answers of trained runs to anybody's prompts: one base in memory, and one adapter at work on it at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lorascope.base.loading import Base
from lorascope.console import Bar
from lorascope.data.chat_template import with_template
from lorascope.data.prompts import Question, questions
from lorascope.data.rows import Message, Row
from lorascope.data.sources import load_rows
from lorascope.data.statistics import system_messages
from lorascope.delivery.finished_run import FinishedRun
from lorascope.delivery.merging import with_adapter
from lorascope.errors import DataError, LorascopeError, RunError
from lorascope.evaluation import predictions
from lorascope.evaluation.answers import answer_text, decode, ends_of, left_padded
from lorascope.evaluation.external_metrics import metrics_of
from lorascope.evaluation.metrics import Needs
from lorascope.evaluation.tasks import MAIN, Evaluated, Suite
from lorascope.session import Session, base_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Decoding:
    """How an answer is written.

    Args:
        max_new_tokens: it is cut there.
        temperature: 0 takes the most likely token, as the evaluation does; above, tokens are drawn.
        top_p: draw among the most likely tokens that have this probability together.
        seed: of the draws.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """The fields of transformers' GenerationConfig."""
        if self.temperature == 0:
            return {}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}


@dataclass
class SharedBase:
    """The base of some runs, with the adapter of one of them or with none."""

    runs: Sequence[FinishedRun]
    out: Console
    session: Session = field(default_factory=Session)
    _at_work: FinishedRun | None = field(default=None, init=False)
    _model: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Raises a RunError where the runs do not share a base."""
        first = self.runs[0]
        for run in self.runs[1:]:
            if base_key(run.config) != base_key(first.config):
                what = f"and {first.name} were trained on other bases, or in other dtypes or quantizations."
                raise RunError(run.name, what, "Ask them one after the other.")
        self.session.base(first.config, self.out)

    def base(self, run: FinishedRun) -> Base:
        """The base with the run's chat template, whatever adapter is on it."""
        base = self.session.base(run.config, self.out)
        return dataclasses.replace(base, tokenizer=with_template(base.tokenizer, run.config.dataset))

    def model(self, run: FinishedRun | None) -> Any:
        """The model with the run's adapter; the base, where there is no run."""
        if self._model is None or run is not self._at_work:
            if self._at_work is not None:
                self.session.take_back()
            base = self.session.base(self.runs[0].config, self.out).model
            self._model, self._at_work = with_adapter(base, run.adapter) if run else base, run
        return self._model


def system_message(run: FinishedRun) -> str:
    """The system message that all rows of the run's data have, which its prompts need too.

    Raises:
        DataError: when the data cannot be read any more, or their rows have several.
    """
    remedy = "Name it, or none: --system TEXT, --system ''"
    found = run.record.data.get("card", {}).get("system_messages")
    if found is None:  # a record of an earlier version
        try:
            found = system_messages(load_rows(run.config.dataset))
        except LorascopeError as error:
            what = "was trained on data that cannot be read any more, so its system message is not known"
            raise DataError(run.name, f"{what} ({error.problem}).", remedy) from error
    if len(found) > 1:
        raise DataError(run.name, "was trained on rows with different system messages.", remedy)
    return "".join(found)


def learns_texts(run: FinishedRun) -> bool:
    """Whether all rows of the run's data are texts, which are learned from start to end."""
    return all(shape.startswith("text") for shape in str(run.record.data.get("shape")).split("; "))


def question(run: FinishedRun, tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message]) -> Question:
    """A conversation that ends with a question, as the run's eval rows are rendered.

    Args:
        turns: for a run on texts, one message with the beginning of a text.
    """
    if learns_texts(run):
        text = turns[-1].content
        return Question(Row(text=text), list(tokenizer(text)["input_ids"]), [])
    return questions([Row((*turns, Message("assistant", "Yes.")))], tokenizer)[0]


def answer(
    model: Any, base: Base, asked: Question, decoding: Decoding, stream: Callable[[str], object] | None = None
) -> str:
    """What the model writes.

    Args:
        model: the base, or the base with an adapter.
        base: its tokenizer renders and decodes.
        asked: see `question`.
        stream: called with each piece of text as soon as it is there, special tokens left out.

    Returns:
        The whole answer, without special tokens and thoughts.

    Raises:
        RunError: when prompt and answer are longer than the model's context.
    """
    import torch

    tokenizer = base.tokenizer
    most = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    if most and len(asked.prompt) >= most:
        what = f"has {len(asked.prompt)} tokens, and the model reads {most} with the answer."
        raise RunError("The prompt", what, "Shorten it.")
    room = min(decoding.max_new_tokens, most - len(asked.prompt)) if most else decoding.max_new_tokens
    ids, mask = left_padded([asked.prompt], int(tokenizer.pad_token_id or 0), model.device)
    ends = ends_of(base.model, tokenizer, [asked.answer] if asked.answer else [])
    streamer = _streamer(tokenizer, stream) if stream else None
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(decoding.seed)
        written = decode(model, tokenizer, ids, mask, room, ends, streamer, **decoding.settings())
    return answer_text(written[0, ids.shape[1] :].tolist(), tokenizer, ends)


def _streamer(tokenizer: PreTrainedTokenizerBase, stream: Callable[[str], object]) -> Any:
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            stream(text)

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@dataclass(frozen=True)
class Again:
    """Eval rows answered again.

    Args:
        rows: `prompt`, `right`, and each model's answer by its name.
        scores: by metric, each model's.
        recorded: how many of the run's own answers are those that it recorded, and of how many; None where it
            recorded no text.
    """

    rows: list[dict[str, str]]
    scores: dict[str, dict[str, float]]
    recorded: tuple[int, int] | None


def ask_again(shared: SharedBase, models: Sequence[FinishedRun | None]) -> Again:
    """Let models write answers to the first run's eval rows, as its evaluation does.

    Args:
        models: runs, and None for the base.

    Raises:
        DataError: when the rows cannot be read, or are texts.
    """
    run = shared.runs[0]
    base = shared.base(run)
    data = dataclasses.replace(load_rows(run.config.dataset), probes={})
    written = [metric for metric in metrics_of(run.config.dataset.metrics) if metric.needs is Needs.text]
    suite = Suite(data, written or metrics_of(["exact_match"]), base.tokenizer, run.config.evaluation)
    if MAIN not in suite.sets:
        raise DataError(run.name, "was trained on texts, which ask nothing.", "Continue one: --prompt 'Once upon'")
    found: dict[str, Evaluated] = {}
    for model in models:
        adapted = shared.model(model)
        with Bar(shared.out, name_of(model), suite.steps) as bar:
            found[name_of(model)] = suite.evaluate(adapted, None, bar.step)
    rows = [
        {"prompt": one.row.question, "right": one.row.completion} | dict(zip(found, texts, strict=True))
        for one, *texts in zip(
            suite.sets[MAIN], *([a.text for a in e.answers[MAIN]] for e in found.values()), strict=True
        )
    ]
    scores = {key: {name: one.scores[key].value for name, one in found.items()} for key in suite.names()}
    kept = predictions.read(run.folder / predictions.FILE) or {}
    before = kept.get(predictions.ADAPTED, Evaluated()).answers.get(MAIN, ())
    now = found[run.name].answers[MAIN]
    if len(before) != len(now) or not any(one.text for one in before):
        return Again(rows, scores, None)
    same = sum(one.text == other.text for one, other in zip(before, now, strict=True))
    return Again(rows, scores, (same, len(now)))


def name_of(run: FinishedRun | None) -> str:
    """What a model is called where several answer."""
    return run.name if run else predictions.BASE
