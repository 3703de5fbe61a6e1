"""Metrics from outside: the user's Python functions, and EleutherAI's lm-evaluation-harness.

    # my_metrics.py      python train.py dataset.metrics=[exact_match,my_metrics.py:politeness]
    def politeness(prediction: str) -> float:
        return float("please" in prediction)
    politeness.unit, politeness.better = "share of answers", "higher"

It is called once an item, by the names that it has among those of `READS`.

Gao et al., the language model evaluation harness, 2024 (10.5281/zenodo.12608602): the package lm-eval, an extra.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, Literal

from lorascope.config.schema import EvaluationConfig
from lorascope.errors import ConfigError
from lorascope.evaluation.metrics import TASK_METRICS, Answer, Needs, TaskMetric
from lorascope.evaluation.tasks import Score
from lorascope.records.record import Metric

# argument of the function -> what of an answer it is, and what has to be made for it
READS: dict[str, tuple[Callable[[Answer], Any], Needs | None]] = {
    "prediction": (lambda answer: answer.text, Needs.text),
    "choice": (lambda answer: answer.choice, Needs.choice),
    "scores": (lambda answer: answer.scores, Needs.choice),
    "nats": (lambda answer: answer.nats, Needs.loss),
    "tokens": (lambda answer: answer.tokens, Needs.loss),
    "gold": (lambda answer: answer.gold, None),
    "accepted": (lambda answer: answer.accepted, None),
    "prompt": (lambda answer: answer.prompt, None),
    "group": (lambda answer: answer.group, None),
}
FORM = "Write package.module:function or file.py:function"


def check_metrics(names: Sequence[str]) -> None:
    """Refuse a metric that does not exist, without running anybody's code.

    Raises:
        ConfigError: for the first of these.
    """
    import difflib

    for name in names:
        module, colon, function = str(name).partition("@")[0].rpartition(":")
        if not colon and name not in TASK_METRICS:
            near = difflib.get_close_matches(str(name), TASK_METRICS, n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            what = f"there is no metric '{name}'."
            raise ConfigError("dataset.metrics", what, f"{hint}There are: {', '.join(TASK_METRICS)}. Your own: {FORM}.")
        if colon and not function.isidentifier():
            raise ConfigError("dataset.metrics", f"'{name}' names no function.", f"{FORM}.")
        if colon and module.endswith(".py") and not _file(module).is_file():
            raise ConfigError("dataset.metrics", f"there is no file {module}.", f"Files are read from {Path.cwd()}.")


def pin_metrics(names: Sequence[str]) -> list[str]:
    """The same metrics, files with a hash of what is in them: an edited function is another metric."""
    return [_pinned(name) for name in names]


def _pinned(name: str) -> str:
    module, colon, _ = name.rpartition(":")
    if not colon or not module.endswith(".py") or "@" in name:
        return name
    return f"{name}@{hashlib.sha256(_file(module).read_bytes()).hexdigest()[:8]}"


def metrics_of(names: Sequence[str]) -> list[TaskMetric]:
    """The metrics by name; a user's own code is imported.

    Raises:
        ConfigError: when it cannot be, or is no such function.
    """
    return [TASK_METRICS[name] if name in TASK_METRICS else _own(name.partition("@")[0]) for name in names]


def _own(name: str) -> TaskMetric:
    module, _, function = name.rpartition(":")
    try:
        found = getattr(_load(module), function)
        wanted = list(inspect.signature(found).parameters)
    except Exception as error:  # a user's module raises whatever it likes
        what = f"{name} cannot be imported: {type(error).__name__}: {error}"
        raise ConfigError("dataset.metrics", what.rstrip(".") + ".", f"{FORM}.") from error
    if unknown := [one for one in wanted if one not in READS]:
        raise ConfigError(
            "dataset.metrics", f"{name} asks for '{unknown[0]}'.", f"A metric may ask for: {', '.join(READS)}."
        )
    needs = {need for one in wanted if (need := READS[one][1])}
    if len(needs) > 1:
        kinds = " and ".join(sorted(needs))
        raise ConfigError("dataset.metrics", f"{name} asks for {kinds} at once.", "Make one function of each.")
    better = getattr(found, "better", "higher")
    if better not in ("higher", "lower"):
        raise ConfigError("dataset.metrics", f"{name}.better is {better!r}.", "Write 'higher' or 'lower'.")

    def score(answer: Answer) -> float:
        value = found(**{one: READS[one][0](answer) for one in wanted})
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise ConfigError("dataset.metrics", f"{name} gave {value!r}.", "Return a number for each item.") from error

    direction: Literal["lower", "higher"] = "lower" if better == "lower" else "higher"
    return TaskMetric(function, direction, str(getattr(found, "unit", "")), next(iter(needs), Needs.text), score)


def _file(module: str) -> Path:
    return Path(os.path.expanduser(module))


def _load(module: str) -> Any:
    if not module.endswith(".py"):
        return importlib.import_module(module)
    spec = importlib.util.spec_from_file_location(f"lorascope_own_{_file(module).stem}", _file(module))
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


Z_95 = 1.959963984540054  # standard errors on either side of 95 %


def check_harness(settings: EvaluationConfig) -> None:
    """Refuse tasks where the harness is not installed, and a task's file that is not there.

    Raises:
        ConfigError: with what to do.
    """
    if settings.lm_eval and importlib.util.find_spec("lm_eval") is None:
        remedy = "Run: pip install 'lorascope[lm-eval]'"
        raise ConfigError("evaluation.lm_eval", "the package lm-eval is not installed.", remedy)
    for task in settings.lm_eval:
        if str(task).endswith((".yaml", ".yml")) and not Path(os.path.expanduser(task)).is_file():
            remedy = f"Files are read from {Path.cwd()}."
            raise ConfigError(f"evaluation.lm_eval=[{task}]", "there is no such file.", remedy)


def run_harness(model: Any, tokenizer: Any, settings: EvaluationConfig) -> tuple[dict[str, Metric], dict[str, Score]]:
    """The harness's own scores of every task.

    Args:
        model: with or without an adapter, in evaluation mode; the harness leaves it as it was.
        settings: `lm_eval`, names of tasks or files of one's own; `lm_eval_limit`, items of each.

    Returns:
        Metrics and scores by `lm_eval/TASK/METRIC`; intervals are 1.96 of the harness's standard errors.

    Raises:
        ConfigError: for a task that the harness does not know, or whose data cannot be had.
    """
    if not settings.lm_eval:
        return {}, {}
    try:
        with _quietly():
            found = _evaluate(model, tokenizer, settings)
    except Exception as error:  # tasks raise what their data sets and templates raise
        names = ", ".join(map(str, settings.lm_eval))
        what = str(error).strip().partition("\n")[0] or type(error).__name__
        remedy = "Tasks are listed by: lm-eval ls tasks. Their data come from the hub."
        raise ConfigError(f"evaluation.lm_eval=[{names}]", f"the harness cannot run it: {what}", remedy) from error
    metrics: dict[str, Metric] = {}
    scores: dict[str, Score] = {}
    for task, results in found["results"].items():
        items = int(found.get("n-samples", {}).get(task, {}).get("effective", 0))
        for name, value in results.items():
            title, comma, _ = name.partition(",")
            if not comma or title.endswith("_stderr") or not isinstance(value, int | float):
                continue
            deviation = results.get(f"{title}_stderr,{name.partition(',')[2]}")
            spread = Z_95 * deviation if isinstance(deviation, int | float) else None
            key = f"lm_eval/{task}/{title}"
            higher = found.get("higher_is_better", {}).get(task, {}).get(title, True)
            metrics[key] = Metric(key, "higher" if higher else "lower", "as the harness has it")
            low, high = (None, None) if spread is None else (value - spread, value + spread)
            scores[key] = Score(float(value), low, high, items)
    return metrics, scores


def _evaluate(model: Any, tokenizer: Any, settings: EvaluationConfig) -> dict[str, Any]:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folders = sorted({str(Path(os.path.expanduser(task)).resolve().parent) for task in _files(settings.lm_eval)})
    manager = TaskManager(include_path=folders or None)
    names = [_name(task) for task in settings.lm_eval]
    training, cache = model.training, model.config.use_cache
    try:
        result: dict[str, Any] = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8),
            tasks=names,
            task_manager=manager,
            limit=settings.lm_eval_limit,
            log_samples=False,
        )
    finally:
        model.train(training)
        model.config.use_cache = cache
    return result


def _files(tasks: Sequence[str]) -> list[str]:
    return [task for task in tasks if str(task).endswith((".yaml", ".yml"))]


def _name(task: str) -> str:
    """A file's task is known by the name inside it."""
    if task not in _files([task]):
        return task
    import yaml

    class Loader(yaml.SafeLoader):
        """The harness's own marks (`!function`) are left alone."""

    Loader.add_multi_constructor("!", lambda loader, mark, node: None)
    told = yaml.load(Path(os.path.expanduser(task)).read_text(encoding="utf-8"), Loader=Loader)
    return str(told["task"])


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the harness's own bars and advice, which stand between a run's lines."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            yield
    finally:
        logger.setLevel(level)
