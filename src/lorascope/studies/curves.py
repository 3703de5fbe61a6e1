"""What the runs' histories tell: losses by step come in, a mean curve with its band for each arm goes out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorascope.records.metrics import EVAL_LOSS
from lorascope.records.record import RunRecord, Status
from lorascope.records.trackers.history import read_history
from lorascope.studies.study import FINAL, Study

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
    histories: dict[str, list[list[dict[str, float]]]] = {}
    for run in study.runs:
        record = records.get(run.name)
        if run.stage == FINAL and run.task == task and record and record.status is Status.done:
            histories.setdefault(run.arm, []).append(list(read_history(folder / run.name)))
    rows = [history for every in histories.values() for history in every]
    key = EVAL if rows and statistics.median(len(_points(history, EVAL)) for history in rows) > 2 else TRAIN
    found = (_curve(arm.name, [_points(one, key) for one in histories.get(arm.name, [])]) for arm in study.arms)
    return key, [curve for curve in found if curve is not None]


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
