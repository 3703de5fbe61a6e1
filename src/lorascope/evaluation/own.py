"""A user's own metric: one Python function named in YAML becomes a metric like any other.

    # my_metrics.py      python train.py dataset.metrics=[exact_match,my_metrics.py:politeness]
    def politeness(prediction: str) -> float:
        return float("please" in prediction)
    politeness.unit, politeness.better = "share of answers", "higher"

It is called once an item, by the names that it has among those of `READS`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from lorascope.errors import ConfigError
from lorascope.evaluation.answers import Answer
from lorascope.evaluation.metrics import TASK_METRICS, Needs, TaskMetric

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
