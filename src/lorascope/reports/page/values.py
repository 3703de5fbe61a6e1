"""The values that the page shows: each arm's look, its mean and seeds by metric, and its plan."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lorascope.formats import count, counted
from lorascope.records.record import RunRecord, Status
from lorascope.records.study_record import FINAL, Study, StudyRun, values_of
from lorascope.reports.findings import Findings
from lorascope.stats.contrasts import summary

COLORS, SHAPES, DASHES = 7, 6, 5  # besides the reference's color; charts.py and style.css have them


@dataclass(frozen=True)
class Look:
    """How an arm is drawn everywhere: places in COLORS, SHAPES and DASHES."""

    color: int
    shape: int
    dash: int


Looks = Mapping[str, Look]


@dataclass(frozen=True)
class Spot:
    """An arm's value with its interval, where it has one; `tip` is shown on hover and read to who cannot see."""

    arm: str
    value: float
    low: float | None
    high: float | None
    tip: str = ""
    x: float | None = None  # where values are set against something else
    x_low: float | None = None
    x_high: float | None = None
    hollow: bool | None = None  # off the front


@dataclass(frozen=True)
class Dot:
    """A seed's value, with a link to its run's folder."""

    arm: str
    seed: int
    value: float
    href: str
    more: str = ""  # for its tooltip
    x: float | None = None


def looks_of(study: Study) -> Looks:
    """The reference comes first, so that it looks the same in every study; 42 arms differ in color or shape."""
    others = [arm.name for arm in study.arms if arm.name != study.reference]
    return {
        name: Look(1 + (index - 1) % COLORS if index else 0, index % SHAPES, index % DASHES)
        for index, name in enumerate([study.reference, *others])
    }


@dataclass(frozen=True)
class Source:
    """What the sections are made of, and where the runs' folders lie as seen from the page."""

    found: Findings
    looks: Looks
    folder: str

    def link(self, run: str) -> str:
        """A run's folder, relative to the page; a name cannot make it lead elsewhere."""
        return quote(f"{self.folder}/{run}/")

    def done(self, task: str) -> list[tuple[StudyRun, RunRecord]]:
        """A task's final runs that are done."""
        runs = [run for run in self.found.study.runs if run.stage == FINAL and run.task == task]
        known = [(run, self.found.records[run.name]) for run in runs if run.name in self.found.records]
        return [(run, record) for run, record in known if record.status is Status.done]

    def dots(self, task: str, metric: str) -> list[Dot]:
        """Each seed's value, of final runs that are done."""
        found: dict[tuple[str, int], Dot] = {}
        for run, record in self.done(task):
            value = record.metric(metric)
            if value is not None and math.isfinite(value):
                found[run.arm, run.seed] = Dot(run.arm, run.seed, value, self.link(run.name))
        return list(found.values())

    def spots(self, task: str, metric: str) -> list[Spot]:
        """Each arm's value with its interval over seeds, or over items where there is one seed."""
        study, made = self.found.study, []
        for arm, values in values_of(study, self.found.records, task, metric).items():
            one = summary(values.values(), level=study.level)
            if one.mean is None:
                continue
            alone = self._entry(task, metric, arm) if one.n == 1 else {}
            low, high = alone.get("low", one.low), alone.get("high", one.high)
            between = "" if low is None or high is None else f"\ninterval {low!r} to {high!r}"
            tip = f"{arm}\n{metric} {one.mean!r}\n{counted(one.n, 'seed')}{between}"
            made.append(Spot(arm, one.mean, low, high, tip))
        return made

    def _entry(self, task: str, metric: str, arm: str) -> Mapping[str, Any]:
        """The record's own entry of a metric, of an arm's only run that has it."""
        entries = (record.metrics.get(metric) for run, record in self.done(task) if run.arm == arm)
        return next(filter(None, entries), {})


def source(found: Findings, looks: Looks, page: Path | None) -> Source:
    """The findings for a page that is written to a file; in the study's folder by default."""
    here = os.path.abspath(page.parent) if page else os.path.abspath(found.folder)
    try:
        folder = Path(os.path.relpath(found.folder, here)).as_posix()
    except ValueError:  # another drive
        folder = Path(os.path.abspath(found.folder)).as_posix()
    return Source(found, looks, folder)


@dataclass(frozen=True)
class RankMap:
    """A plan as ranks: (layer, role) -> the ranks there, and the modules that are in no layer."""

    arm: str
    tasks: tuple[str, ...]  # where it is this one; empty for all
    ranks: Mapping[tuple[int, str], str]
    besides: tuple[str, ...]
    parameters: int

    @property
    def caption(self) -> str:
        """Where it is this plan, its size, and what else it has."""
        where = f"on {', '.join(self.tasks)}: " if self.tasks else ""
        besides = f"; besides {', '.join(self.besides[:4])}" if self.besides else ""
        besides += f" and {len(self.besides) - 4} more" if len(self.besides) > 4 else ""
        return f"{where}{count(self.parameters)} parameters{besides}"


def coverages(study: Study, records: Mapping[str, RunRecord]) -> list[RankMap]:
    """Each arm's plan; more than one where it differs between tasks, which a plan made by data may."""
    found: dict[tuple[str, str, tuple[str, ...]], RankMap] = {}
    tasks: dict[tuple[str, str, tuple[str, ...]], dict[str, None]] = {}
    order = [arm.name for arm in study.arms]
    runs = sorted(
        (run for run in study.runs if run.arm in order), key=lambda run: (order.index(run.arm), run.stage != FINAL)
    )
    seen = set()
    for run in runs:
        plan = records[run.name].plan if run.name in records else {}
        if not plan.get("modules") or (run.arm, run.task) in seen:
            continue
        seen.add((run.arm, run.task))
        ranks, besides = _ranks(plan["modules"])
        key = (run.arm, str(sorted(ranks.items())), besides)
        tasks.setdefault(key, {})[run.task] = None
        found.setdefault(key, RankMap(run.arm, (), ranks, besides, plan.get("trainable_parameters", 0)))
    several = {arm for arm in order if sum(key[0] == arm for key in found) > 1}
    return [
        RankMap(one.arm, tuple(tasks[key]) if one.arm in several else (), one.ranks, one.besides, one.parameters)
        for key, one in found.items()
    ]


def _ranks(modules: Sequence[Mapping[str, Any]]) -> tuple[dict[tuple[int, str], str], tuple[str, ...]]:
    cells: dict[tuple[int, str], set[int]] = {}
    besides: dict[str, None] = {}
    for module in modules:
        rank, layer, role = int(module.get("rank") or 0), module.get("layer"), str(module.get("role"))
        if isinstance(layer, int):
            cells.setdefault((layer, role), set()).add(rank)
        else:
            besides[f"{module.get('name')} r{rank}"] = None
    ranks = {place: "/".join(map(str, sorted(found, reverse=True))) for place, found in cells.items()}
    return ranks, tuple(besides)


def words(one: RankMap) -> str:
    """The picture in words: q rank 8 in layers 0 to 2; v rank 8 in layers 0 to 2."""
    layers = 1 + max((layer for layer, _ in one.ranks), default=0)
    roles = dict.fromkeys(role for _, role in one.ranks)
    told = [
        f"{role} rank {rank} in layer{'' if first == last else 's'} {span(first, last)}"
        for role in roles
        for first, last, rank in stretches(one.ranks, role, layers)
    ]
    return f"{one.arm}: " + ("; ".join(told) or "no module in a layer")


def span(first: int, last: int) -> str:
    """3, or 3 to 7."""
    return str(first) if first == last else f"{first} to {last}"


def stretches(ranks: Mapping[tuple[int, str], str], role: str, layers: int) -> list[tuple[int, int, str]]:
    """First layer, last layer and rank of every stretch of layers that are alike."""
    found: list[tuple[int, int, str]] = []
    for layer in range(layers):
        rank = ranks.get((layer, role))
        if rank is None:
            continue
        if found and found[-1][1] == layer - 1 and found[-1][2] == rank:
            found[-1] = (found[-1][0], layer, rank)
        else:
            found.append((layer, layer, rank))
    return found
