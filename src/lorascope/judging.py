"""How a run is judged: the measure that it is held to, the base's own answers, and what is kept of all answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from lorascope.config import RunConfig
from lorascope.evaluation import kept
from lorascope.evaluation.measure import Measure, leaves_the_base
from lorascope.evaluation.metrics import EVAL_LOSS
from lorascope.evaluation.own import metrics_of
from lorascope.evaluation.tasks import Evaluated, Suite
from lorascope.evaluation.texts import texts_of
from lorascope.inputs import Inputs
from lorascope.terminal import Bar, waiting, warn


def measure_of(config: RunConfig, inputs: Inputs, out: Console) -> Measure:
    """What will be measured before and after, the texts among it that the base writes itself."""
    base = inputs.base
    metrics = metrics_of(config.dataset.metrics) if config.evaluation.tasks else []
    suite = Suite(inputs.rows, metrics, base.tokenizer, config.evaluation)
    with waiting(out, "drawing texts that the base writes, to see later what it forgets"):
        texts = texts_of(config, base.model, base.tokenizer, base.revision)
    comparable = leaves_the_base(config.target)
    return Measure(config.evaluation, base.tokenizer, inputs.evaluation, suite, texts, comparable)


def judge_base(
    measure: Measure, inputs: Inputs, config: RunConfig, folder: Path, out: Console, *, resumed: bool
) -> Evaluated:
    """The base's own scores and answers: measured, or remembered from a session or run before."""
    file = folder / kept.BASE_FILE
    found = (kept.read(file) or {}).get(kept.BASE) if resumed else None
    if found is None:
        with Bar(out, "base", measure.steps) as bar:
            found = measure.base(inputs.base.model, bar.step, measure.remembered_at(config, inputs.base.revision))
        _keep(file, {kept.BASE: found}, measure)
    supervised = f"{inputs.evaluation.supervised_tokens:,} tokens of {len(inputs.evaluation)} rows"
    out.print(f"base eval loss {found.scores[EVAL_LOSS.name].value:.4f} nats/token, over {supervised}")
    return found


def keep_answers(measure: Measure, before: Evaluated, after: Evaluated, folder: Path) -> None:
    """Every item's answer beside the record, of base and adapter, where they are wanted."""
    if measure.settings.predictions and measure.suite.sets:
        _keep(folder / kept.FILE, {kept.BASE: before, kept.ADAPTED: after}, measure)


def _keep(file: Path, stages: Mapping[str, Evaluated], measure: Measure) -> None:
    """A full disk costs the answers, not the run."""
    try:
        kept.write(file, stages, measure.suite)
    except OSError as error:
        warn(f"{file.name} could not be written ({error.strerror}); the record goes on without it")


def values(found: Evaluated) -> dict[str, float]:
    """Every score as trackers take it."""
    return {name: score.value for name, score in found.scores.items()}
