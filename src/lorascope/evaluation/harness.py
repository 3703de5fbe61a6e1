"""EleutherAI's harness: tasks by name or file come in, their scores on a model go out.

Gao et al., the language model evaluation harness, 2024 (10.5281/zenodo.12608602): the package lm-eval, an extra.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from lorascope.config import EvaluationConfig
from lorascope.errors import ConfigError
from lorascope.evaluation.tasks import Score
from lorascope.records.metrics import Metric

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
