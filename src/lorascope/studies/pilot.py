"""How the learning rates were chosen: the pilot's runs come in, the eval loss of every rate that was tried goes out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorascope.records.metrics import EVAL_LOSS
from lorascope.records.record import RunRecord, Status
from lorascope.studies.study import PILOT, Study

LOSS = EVAL_LOSS.name


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
            loss = record.metric(LOSS) if record and record.status is Status.done else None
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
