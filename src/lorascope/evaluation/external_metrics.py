"""Metrics from outside: the user's Python functions, and EleutherAI's lm-evaluation-harness.

    # my_metrics.py      python train.py dataset.metrics=[exact_match,my_metrics.py:politeness]
    def politeness(prediction: str) -> float:
        return float("please" in prediction)
    politeness.unit, politeness.better = "share of answers", "higher"

It is called once an item, by the names that it has among those of `READS`.

Gao et al., the language model evaluation harness, 2024 (10.5281/zenodo.12608602): the package lm-eval, an extra.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import logging
import os
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from lorascope.config.schema import EvaluationConfig
from lorascope.errors import ConfigError, first_line
from lorascope.evaluation.loss import evaluating
from lorascope.evaluation.metrics import TASK_METRICS, Answer, Needs, TaskMetric
from lorascope.evaluation.tasks import Score
from lorascope.records.record import Metric

# argument of the function, a field of `Answer` or its text -> what has to be made for it
READS = {
    "prediction": Needs.text, "choice": Needs.choice, "scores": Needs.choice, "nats": Needs.loss, "tokens": Needs.loss,
    "gold": None, "accepted": None, "prompt": None, "group": None,
}  # fmt: skip
FORM = "Write package.module:function or file.py:function"


def check_metrics(names: Sequence[str]) -> None:
    """Refuse a metric that does not exist, without running anybody's code."""
    for name in names:
        module, colon, function = str(name).partition("@")[0].rpartition(":")
        if not colon and name not in TASK_METRICS:
            near = difflib.get_close_matches(str(name), TASK_METRICS, n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            remedy = f"{hint}There are: {', '.join(TASK_METRICS)}. Your own: {FORM}."
            raise _refused(f"there is no metric '{name}'.", remedy)
        if colon and not function.isidentifier():
            raise _refused(f"'{name}' names no function.")
        if colon and module.endswith(".py") and not _file(module).is_file():
            raise _refused(f"there is no file {module}.", f"Files are read from {Path.cwd()}.")


def _refused(what: str, remedy: str = f"{FORM}.") -> ConfigError:
    return ConfigError("dataset.metrics", what, remedy)


def pin_metrics(names: Sequence[str]) -> list[str]:
    """The same metrics, files with a hash of what is in them: an edited function is another metric."""
    pinned = []
    for name in names:
        module = name.rpartition(":")[0]
        unpinned = module.endswith(".py") and "@" not in name
        pinned.append(f"{name}@{hashlib.sha256(_file(module).read_bytes()).hexdigest()[:8]}" if unpinned else name)
    return pinned


def metrics_of(names: Sequence[str]) -> list[TaskMetric]:
    """The metrics by name; a user's own code is imported, or refused."""
    return [TASK_METRICS[name] if name in TASK_METRICS else _own(name.partition("@")[0]) for name in names]


def _own(name: str) -> TaskMetric:
    module, _, function = name.rpartition(":")
    try:
        found = getattr(_load(module), function)
        wanted = list(inspect.signature(found).parameters)
    except Exception as error:  # a user's module raises whatever it likes
        what = f"{name} cannot be imported: {type(error).__name__}: {error}"
        raise _refused(what.rstrip(".") + ".") from error
    if unknown := [one for one in wanted if one not in READS]:
        raise _refused(f"{name} asks for '{unknown[0]}'.", f"A metric may ask for: {', '.join(READS)}.")
    needs = {need for one in wanted if (need := READS[one])}
    if len(needs) > 1:
        raise _refused(f"{name} asks for {' and '.join(sorted(needs))} at once.", "Make one function of each.")
    better: Any = getattr(found, "better", "higher")
    if better not in ("higher", "lower"):
        raise _refused(f"{name}.better is {better!r}.", "Write 'higher' or 'lower'.")

    def score(answer: Answer) -> float:
        value = found(**{one: getattr(answer, "text" if one == "prediction" else one) for one in wanted})
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise _refused(f"{name} gave {value!r}.", "Return a number for each item.") from error

    return TaskMetric(function, better, str(getattr(found, "unit", "")), next(iter(needs), Needs.text), score)


def _file(name: str) -> Path:
    return Path(os.path.expanduser(name))


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
    """Refuse tasks where the harness is not installed, and a task's file that is not there."""
    if settings.lm_eval and importlib.util.find_spec("lm_eval") is None:
        remedy = "Run: pip install 'lorascope[lm-eval]'"
        raise ConfigError("evaluation.lm_eval", "the package lm-eval is not installed.", remedy)
    for task in settings.lm_eval:
        if _is_file(task) and not _file(task).is_file():
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
        found = _evaluate(model, tokenizer, settings)
    except Exception as error:  # tasks raise what their data sets and templates raise
        names = ", ".join(map(str, settings.lm_eval))
        what = f"the harness cannot run it: {first_line(error)}"
        remedy = "Tasks are listed by: lm-eval ls tasks. Their data come from the hub."
        raise ConfigError(f"evaluation.lm_eval=[{names}]", what, remedy) from error
    metrics: dict[str, Metric] = {}
    scores: dict[str, Score] = {}
    for task, results in found["results"].items():
        items = int(found.get("n-samples", {}).get(task, {}).get("effective", 0))
        for name, value in results.items():
            title, comma, setting = name.partition(",")
            if not comma or title.endswith("_stderr") or not isinstance(value, int | float):
                continue
            key = f"lm_eval/{task}/{title}"
            higher = found.get("higher_is_better", {}).get(task, {}).get(title, True)
            metrics[key] = Metric(key, "higher" if higher else "lower", "as the harness has it")
            deviation = results.get(f"{title}_stderr,{setting}")
            known = isinstance(deviation, int | float)
            ends = (value - Z_95 * deviation, value + Z_95 * deviation) if known else (None, None)
            scores[key] = Score(float(value), items, *ends)
    return metrics, scores


def _evaluate(model: Any, tokenizer: Any, settings: EvaluationConfig) -> dict[str, Any]:
    """What the harness returns, without its own bars and advice, which would stand between a run's lines."""
    logger = logging.getLogger("lm_eval")
    level, cache = logger.level, model.config.use_cache
    logger.setLevel(logging.ERROR)
    try:
        with evaluating(model), open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            import lm_eval
            from lm_eval.models.huggingface import HFLM
            from lm_eval.tasks import TaskManager

            folders = sorted({str(_file(task).resolve().parent) for task in settings.lm_eval if _is_file(task)})
            result: dict[str, Any] = lm_eval.simple_evaluate(
                model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8),
                tasks=[_named_in(_file(task)) if _is_file(task) else task for task in settings.lm_eval],
                task_manager=TaskManager(include_path=folders or None),
                limit=settings.lm_eval_limit,
                log_samples=False,
            )
    finally:
        model.config.use_cache = cache
        logger.setLevel(level)
    return result


def _is_file(task: object) -> bool:
    return str(task).endswith((".yaml", ".yml"))


def _named_in(file: Path) -> str:
    """The name of a file's task, by which the harness knows it."""
    import yaml

    class Loader(yaml.SafeLoader):
        """The harness's own marks (`!function`) are left alone."""

    Loader.add_multi_constructor("!", lambda loader, mark, node: None)
    return str(yaml.load(file.read_text(encoding="utf-8"), Loader=Loader)["task"])
