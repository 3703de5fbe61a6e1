"""Runs that differ in nothing but the seed become one row: n, mean and standard deviation. Never loads torch."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from lorascope.records.metrics import EVAL_LOSS
from lorascope.records.record import RunRecord, Status
from lorascope.studies.rows import (
    CONTEXT,
    COST,
    LOSS,
    METRIC,
    STRATEGY,
    TARGET,
    Column,
    Row,
    metric_names,
    number,
    rows_of,
)
from lorascope.studies.settings import deciding

SAME_LOOKS = ("target", "model", "dataset", "quantization", "ranks", "learning_rate")
DIFFERS = Column("differs in", "differs", lambda value: " ".join(f"{key}={item}" for key, item in value.items()))
GROUP_COLUMNS = (
    TARGET, *CONTEXT, *STRATEGY,
    Column("seeds", "n", right=True), LOSS, Column("sd", "eval_loss_sd", number("{:.4f}"), right=True),
    *COST, Column("not done", "not_done", right=True),
)  # fmt: skip


def groups_of(records: Sequence[RunRecord]) -> list[Row]:
    """A row for each config apart from the seed, lowest mean eval loss first.

    The seed is the unit: runs of one seed are averaged first, n counts seeds, and the standard deviation is the
    sample's (n - 1), null for one seed. Runs whose fingerprints differ are never pooled; runs without an eval loss are
    only counted, as `not_done`.
    """
    names = metric_names(records)
    arms = [(_row(members, names), _settings(members[0])) for members in _arms(records)]
    looks: dict[tuple[Any, ...], list[tuple[Row, dict[str, Any]]]] = {}
    for row, settings in arms:
        looks.setdefault(tuple(row[key] for key in SAME_LOOKS), []).append((row, settings))
    for alike in looks.values():
        _tell_apart(alike)
    return sorted((row for row, _ in arms), key=_order)


def _order(row: Row) -> tuple[bool, float, str]:
    loss = row[EVAL_LOSS.name]
    known = loss is not None and math.isfinite(loss)
    return not known, loss if known else 0.0, str(row["target"])


def _arms(records: Sequence[RunRecord]) -> list[list[RunRecord]]:
    arms: dict[tuple[str, str], list[RunRecord]] = {}
    for record in sorted(records, key=lambda record: not _measured(record)):
        settings = json.dumps(_settings(record), sort_keys=True, default=str)
        key = (settings, str(record.fingerprint.get("hash")))
        if not _measured(record):  # it failed, perhaps before it had a fingerprint: it belongs to its config
            key = next((arm for arm in arms if arm[0] == settings), (settings, ""))
        arms.setdefault(key, []).append(record)
    return list(arms.values())


def _settings(record: RunRecord) -> dict[str, Any]:
    return {key: value for key, value in deciding(record).items() if key != "seed" and value is not None}


def _measured(record: RunRecord) -> bool:
    return record.status is Status.done and record.metric(EVAL_LOSS.name) is not None


def _row(members: Sequence[RunRecord], names: Sequence[str]) -> Row:
    done = [record for record in members if _measured(record)]
    rows, looks = rows_of(done), rows_of(done or members)[0]
    losses = _by_seed(rows, EVAL_LOSS.name)
    return {
        **{key: looks[key] for key in SAME_LOOKS},
        "trainable_parameters": looks["trainable_parameters"],
        "trainable_percent": looks["trainable_percent"],
        "n": len(losses),
        "seeds": sorted(losses),
        EVAL_LOSS.name: _mean(losses.values()),
        "eval_loss_sd": _deviation(losses.values()),
        "base_eval_loss": _mean(_by_seed(rows, "base_eval_loss").values()),
        "tokens_per_second": _mean(_by_seed(rows, "tokens_per_second").values()),
        "peak_bytes": max((row["peak_bytes"] for row in rows if row["peak_bytes"] is not None), default=None),
        "total_seconds": _mean(_by_seed(rows, "total_seconds").values()),
        **{METRIC + name: _mean(_by_seed(rows, METRIC + name).values()) for name in names},
        "not_done": len(members) - len(done),
        "fingerprint": looks["fingerprint"],
        "differs": {},
    }


def _by_seed(rows: Iterable[Row], field: str) -> dict[Any, float]:
    """Seed -> the mean over its runs."""
    values: dict[Any, list[float]] = {}
    for row in rows:
        if row.get(field) is not None:
            values.setdefault(row["seed"], []).append(row[field])
    return {seed: statistics.fmean(found) for seed, found in values.items()}


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.fmean(found) if found else None


def _deviation(values: Iterable[float]) -> float | None:
    """Of the sample; None below two values, and where one of them is not finite."""
    found = list(values)
    return statistics.stdev(found) if len(found) > 1 and all(map(math.isfinite, found)) else None


def _tell_apart(alike: Sequence[tuple[Row, dict[str, Any]]]) -> None:
    """Name the settings, and failing these the fingerprints, in which rows differ that would look the same."""
    every = [settings for _, settings in alike]
    for key in dict.fromkeys(key for settings in every for key in settings):
        if any(settings.get(key) != every[0].get(key) for settings in every):
            for row, settings in alike:
                row["differs"][key] = settings.get(key)
    if any(one == other for index, one in enumerate(every) for other in every[:index]):
        for row, _ in alike:
            row["differs"]["fingerprint"] = row["fingerprint"]
