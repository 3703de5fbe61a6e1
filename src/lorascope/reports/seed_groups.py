"""Runs over seeds: as one row, as one learning curve, and by the rates of a pilot."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorascope.records.record import EVAL_LOSS, SAMPLE, RunRecord, Status
from lorascope.records.study_record import FINAL, PILOT, Study
from lorascope.reports.run_table import (
    CONTEXT,
    COST,
    LOSS,
    METRIC,
    STRATEGY,
    TARGET,
    Column,
    Row,
    deciding,
    flat,
    metric_names,
    number,
    rows_of,
)
from lorascope.trackers.local import read_history

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


EVAL, TRAIN = EVAL_LOSS.name, "loss"  # as the history calls them
POINTS = 60  # of a curve, at most: more than a small chart can show


@dataclass(frozen=True)
class Curve:
    """A loss by step: the mean over an arm's seeds, the lowest and the highest of them, and how many they are."""

    arm: str
    seeds: int
    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def learning_curves(study: Study, records: Mapping[str, RunRecord], folder: Path, task: str) -> tuple[str, list[Curve]]:
    """A curve for each arm with final runs that are done, and which loss it is.

    The eval loss, where it was measured while training; else the training's, of which there is always more.
    """
    histories = _histories(study, records, folder, task)
    rows = [history for every in histories.values() for history in every]
    key = EVAL if rows and statistics.median(len(_points(history, EVAL)) for history in rows) > 2 else TRAIN
    return key, _curves(study, histories, key)


def sampled_curves(study: Study, records: Mapping[str, RunRecord], folder: Path, task: str) -> dict[str, list[Curve]]:
    """For each metric that was measured on a sample while training, a curve for each arm; without those of no arm."""
    histories = _histories(study, records, folder, task)
    keys = dict.fromkeys(key for every in histories.values() for one in every for row in one for key in row)
    found = {key.removeprefix(SAMPLE): _curves(study, histories, key) for key in keys if key.startswith(SAMPLE)}
    return {name: curves for name, curves in found.items() if curves}


def _curves(study: Study, histories: Mapping[str, list[list[dict[str, float]]]], key: str) -> list[Curve]:
    found = (_curve(arm.name, [_points(one, key) for one in histories.get(arm.name, [])]) for arm in study.arms)
    return [curve for curve in found if curve is not None]


def _histories(
    study: Study, records: Mapping[str, RunRecord], folder: Path, task: str
) -> dict[str, list[list[dict[str, float]]]]:
    """By arm, the histories of final runs that are done."""
    histories: dict[str, list[list[dict[str, float]]]] = {}
    for run in study.runs:
        record = records.get(run.name)
        if run.stage == FINAL and run.task == task and record and record.status is Status.done:
            histories.setdefault(run.arm, []).append(list(read_history(folder / run.name)))
    return histories


def curve_of(arm: str, history: Sequence[Mapping[str, Any]], key: str) -> Curve | None:
    """One run's own curve; None where it has fewer than two points."""
    return _curve(arm, [_points(history, key)])


def _points(history: Sequence[Mapping[str, float]], key: str) -> dict[int, float]:
    """Step -> value; where a step was logged twice, the later one."""
    return {
        int(row["step"]): float(row[key])
        for row in history
        if isinstance(row.get(key), int | float) and math.isfinite(row[key])
    }


def _curve(arm: str, seeds: Sequence[Mapping[int, float]]) -> Curve | None:
    """Over the steps that all seeds have, since a mean over other seeds at every step would jump."""
    seeds = [points for points in seeds if points]
    shared = sorted(set.intersection(*(set(points) for points in seeds))) if seeds else []
    if len(shared) < 2:
        return None
    steps = thinned(shared, POINTS)
    columns = [[points[step] for points in seeds] for step in steps]
    means = [statistics.fmean(column) for column in columns]
    return Curve(arm, len(seeds), steps, means, [min(one) for one in columns], [max(one) for one in columns])


def thinned(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly spread, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(index * (len(steps) - 1) / (most - 1))] for index in range(most)]


PILOT_LOSS = EVAL_LOSS.name


@dataclass(frozen=True)
class Tried:
    """A learning rate on one rung of the pilot; the loss is the mean over its runs, None where none has one."""

    arm: str
    rung: int
    rate: float
    steps: float  # the share of a whole training
    loss: float | None


def tried(study: Study, records: Mapping[str, RunRecord], task: str) -> list[Tried]:
    """Every rate that the pilot of a task tried, by arm, rung and rate."""
    found: dict[tuple[str, int, float, float], list[float]] = {}
    for run in study.runs:
        if run.stage == PILOT and run.task == task:
            losses = found.setdefault((run.arm, run.rung or 0, run.rate, run.steps), [])
            record = records.get(run.name)
            loss = record.metric(PILOT_LOSS) if record and record.status is Status.done else None
            if loss is not None and math.isfinite(loss):
                losses.append(loss)
    order = [arm.name for arm in study.arms]
    keys = sorted(found, key=lambda key: (order.index(key[0]) if key[0] in order else len(order), *key[1:]))
    return [Tried(*key, statistics.fmean(found[key]) if found[key] else None) for key in keys]


def edge(rates: Sequence[Tried], arm: str, chosen: float | None) -> str:
    """Which end of the tried rates the chosen one is, "lowest" or "highest"; a better one may lie beyond it."""
    known = sorted({one.rate for one in rates if one.arm == arm})
    if chosen is None or len(known) < 2 or known[0] < chosen < known[-1]:
        return ""
    return "lowest" if chosen <= known[0] else "highest"


def differing_versions(records: Sequence[RunRecord]) -> list[str]:
    """The packages of which the runs had more than one version, each with them."""
    found: dict[str, set[str]] = {}
    for record in records:
        for package, version in flat(record.environment.get("packages", {})).items():
            found.setdefault(package, set()).add(str(version))
    return [f"{package} {', '.join(sorted(known))}" for package, known in found.items() if len(known) > 1]
