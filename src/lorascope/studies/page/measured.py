"""What was measured besides the verdicts: every metric of every task, and what was forgotten for what was learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lorascope.records.record import RunRecord, Status
from lorascope.studies.findings import Findings
from lorascope.studies.page import charts, small
from lorascope.studies.page.charts import Spot
from lorascope.studies.page.looks import Looks
from lorascope.studies.page.markup import Markup, element
from lorascope.studies.page.parts import figures, section
from lorascope.studies.page.sections import arms_of
from lorascope.studies.quantity import quantity
from lorascope.studies.report import count
from lorascope.studies.statistics import summary
from lorascope.studies.study import FINAL, Task, values_of

FORGOTTEN = "forgetting_kl"
LATER = ("train_loss", "best_eval_loss")  # metrics that no panel needs


def panels(found: Findings, looks: Looks) -> Markup | None:
    """Every metric of every task."""
    parts: list[object] = []
    for task in found.study.tasks:
        done = _done(found, task)
        named = dict.fromkeys(name for record in done for name in record.metrics if name not in LATER)
        names = sorted(named, key=lambda name: name != task.metric)  # what decides comes first
        drawn = [element("figure", one) for name in names if (one := _panel(found, task, name, done, looks))]
        if drawn:
            parts += [element("h3", task.name), element("div", *drawn, class_="figures")]
    if not parts:
        return None
    lead = (
        "Means with intervals over seeds; where there is one seed, the interval is the record's, over items. Dashed: "
        "the base model before training. A name with a slash is measured on a set of its own, which was not trained."
    )
    return section("metrics", "What was measured", *parts, lead=lead)


def _done(found: Findings, task: Task) -> list[RunRecord]:
    runs = (
        run for run in found.study.runs if run.stage == FINAL and run.task == task.name and run.name in found.records
    )
    return [record for run in runs if (record := found.records[run.name]).status is Status.done]


def spots(found: Findings, task: str, metric: str) -> list[Spot]:
    """Each arm's value of a metric with its interval over seeds, or over items where there is one seed."""
    made = []
    values = values_of(found.study, found.records, task, metric)
    for arm in found.study.arms:
        one = summary(values[arm.name].values(), level=found.study.level)
        if one.mean is not None:
            alone = _entry(found, task, metric, arm.name) if one.n == 1 else {}
            low, high = alone.get("low", one.low), alone.get("high", one.high)
            made.append(Spot(arm.name, one.mean, low, high, f", {count(one.n, 'seed')}"))
    return made


def _entry(found: Findings, task: str, metric: str, arm: str) -> dict[str, Any]:
    """The record's own entry of a metric, of an arm's only run that has it."""
    runs = [run for run in found.study.runs if (run.stage, run.task, run.arm) == (FINAL, task, arm)]
    entries = (found.records[run.name].metrics.get(metric) for run in runs if run.name in found.records)
    return next(filter(None, entries), {})


def _panel(found: Findings, task: Task, metric: str, done: Sequence[RunRecord], looks: Looks) -> Markup | None:
    entries = [record.metrics[metric] for record in done if metric in record.metrics]
    shown = spots(found, task.name, metric)
    if not shown:
        return None
    bases = [
        float(entry["base"]) for entry in entries if entry.get("base") is not None and math.isfinite(entry["base"])
    ]
    halves = [(spot.high - spot.low) / 2 for spot in shown if spot.low is not None and spot.high is not None]
    measured = quantity(str(entries[0].get("unit") or ""), halves)
    base = sum(bases) / len(bases) if bases else None
    return small.panel(metric, measured, str(entries[0].get("better") or ""), shown, base, looks)


def forgetting(found: Findings, looks: Looks) -> Markup | None:
    """What the learning cost of what the base knew."""
    drawn = []
    for task in found.study.tasks:
        lost = {spot.arm: spot for spot in spots(found, task.name, FORGOTTEN)}
        pairs = [(lost[won.arm], won) for won in spots(found, task.name, task.metric) if won.arm in lost]
        one = next((one for one in found.comparisons if one.task.name == task.name), None)
        if pairs and one:
            drawn.append((task.name, charts.trade(task, pairs, one.quantity, looks)))
    if not drawn:
        return None
    lead = "forgetting_kl is KL(base || adapted) on texts that have nothing to do with the task: less is better."
    return section("forgetting", "Forgetting against learning", arms_of(found, looks), figures(drawn), lead=lead)
