"""A study's folder as its runs leave it, without the runs: values by task, arm and seed come in, files go out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorascope.evaluation.forgetting import FORGETTING_KL
from lorascope.evaluation.metrics import TASK_METRICS
from lorascope.records.record import RunRecord, Status, write_record
from lorascope.records.study_record import FINAL, PILOT, Arm, Study, StudyRun, Task, write_study
from reports.made_records import record

METRIC = TASK_METRICS["exact_match"]
ROLES = {"q_v": ("q", "v"), "qkvo": ("q", "k", "v", "o")}
Values = Mapping[str, Mapping[str, Mapping[int, float | None]]]  # task -> arm -> seed -> value; None: the run failed
# names that would be markup, end a script, break a line or a file, if anybody let them
HOSTILE = (
    "<script>alert(1)</script>", "</script><img src=x onerror=alert(2)>", "\"' onload='alert(3)", "a&amp;b <b>bold",
    "[red]markup[/] $x_1$ %s", "数据 ערב 🦙 ­﻿",
)  # fmt: skip


def a_record(arm: str, task: str, seed: int, value: float | None, *, size: int = 1000, **more: Any) -> RunRecord:
    """A run's record; its eval loss is 1 - value."""
    made = record(arm, size, None if value is None else 1.0 - value, seed=seed, **more)
    made.config["dataset"]["name"] = task
    roles = ROLES.get(arm, ("gate", "up", "down"))
    made.plan["modules"] = [
        {"name": f"model.layers.{layer}.{role}_proj", "layer": layer, "role": role, "rank": 8, "parameters": 1}
        for layer in range(3)
        for role in roles
    ]
    made.environment = {"python": "3.11", "platform": "Linux", "packages": {"torch": "2.13.0"}}
    made.memory["predicted_bytes"] = 2**29
    if value is not None:
        made.metrics[METRIC.name] = METRIC.entry(value, 0.01) | {"low": value - 0.1, "high": value + 0.1}
        made.metrics["exact_match/control"] = METRIC.entry(0.0, 0.0)
        made.metrics["forgetting_kl"] = FORGETTING_KL.entry(value / 2, None)
    return made


def history(end: float, steps: int = 6) -> list[dict[str, float]]:
    """A loss that falls to `end`."""
    return [{"step": step, "loss": end + steps - step, "epoch": step / steps} for step in range(1, steps + 1)]


def keep(folder: Path, made: RunRecord, name: str, rows: Sequence[Mapping[str, Any]] = ()) -> None:
    """A run's folder."""
    made.name = name
    (folder / name).mkdir(parents=True, exist_ok=True)
    write_record(made, folder / name)
    (folder / name / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make(
    folder: Path, values: Values, *, margin: float = 0.02, views: Mapping[str, Sequence[str]] | None = None,
    missing: Sequence[str] = (), pilot: Mapping[str, Mapping[float, float]] | None = None, steps: int = 6,
    **fields: Any,
) -> Study:  # fmt: skip
    """Write a study and its runs.

    Args:
        folder: the study's.
        values: task -> arm -> seed -> the metric's value, or None for a run that failed.
        margin: of the metric.
        views: arm -> the views in which it stands; one view for all by default.
        missing: names of runs that have not been made.
        pilot: arm -> rate -> eval loss, of a pilot on the first task; the lowest one is chosen.
        steps: lines of each history.
        fields: of the study.
    """
    names = list(dict.fromkeys(arm for arms in values.values() for arm in arms))
    views = views or {arm: ["as given"] for arm in names}
    runs = []
    for task, arms in values.items():
        for number, (arm, seeds) in enumerate(arms.items()):
            for seed, value in seeds.items():
                name = f"{len(runs)}-s{seed}"
                runs.append(StudyRun(name=name, stage=FINAL, task=task, arm=arm, seed=seed, rate=1e-3))
                if name not in missing:
                    size = 1000 * (number + 1)
                    keep(folder, a_record(arm, task, seed, value, size=size), name, history(0.5, steps))
    first = next(iter(values))
    for arm, losses in (pilot or {}).items():
        for rate, loss in losses.items():
            name = f"{len(runs)}-pilot"
            run = StudyRun(name=name, stage=PILOT, task=first, arm=arm, seed=99, rate=rate, rung=0, steps=0.5)
            runs.append(run)
            keep(folder, a_record(arm, first, 99, 1 - loss), name)
    study = Study(
        **{
            "name": "placement", "title": "Where should LoRA go?", "command": "python train.py experiment=placement",
            "started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-02T00:00:00+00:00", "reference": names[0],
            "seeds": sorted({seed for arms in values.values() for seeds in arms.values() for seed in seeds}),
            "views": list(dict.fromkeys(view for of in views.values() for view in of)),
            "arms": [Arm(name=arm, words=f"target={arm}", views=list(views[arm]), ranks="8") for arm in names],
            "tasks": [
                Task(
                    name=task, words=f"dataset={task}", metric=METRIC.name, better=METRIC.better, unit=METRIC.unit,
                    margin=margin,
                )
                for task in values
            ],
            "rates": {first: {arm: min(of, key=of.__getitem__) for arm, of in pilot.items()}} if pilot else {},
            "runs": runs,
        } | fields
    )  # fmt: skip
    write_study(study, folder)
    return study


def around(middle: float, seeds: int = 5, spread: float = 0.01) -> dict[int, float]:
    """Values of so many seeds about a middle, the same ones each time."""
    return {seed: middle + spread * ((seed * 7) % 5 - 2) / 2 for seed in range(1, seeds + 1)}


def ordinary(folder: Path, **more: Any) -> Study:
    """Two tasks; against q_v one arm is better, one equivalent, one failed, and one has hardly begun."""
    shift = {1: 0.001, 2: -0.001, 3: 0.0, 4: 0.001, 5: -0.001}
    reference = around(0.3)
    arms: dict[str, Mapping[int, float | None]] = {
        "q_v": reference,
        "ffn": {seed: value + 0.3 + 5 * shift[seed] for seed, value in reference.items()},
        "qkvo": {seed: value + shift[seed] for seed, value in reference.items()},
        "broken": dict.fromkeys(reference),
        "late": {1: 0.4, 2: 0.4},
    }
    pilot = {"q_v": {1e-3: 0.9, 2e-3: 0.7, 4e-3: 0.8}, "ffn": {1e-3: 0.5, 2e-3: 0.4}}
    return make(folder, {"airports": arms, "arithmetic": {"q_v": reference, "ffn": around(0.1)}}, pilot=pilot, **more)


def hostile(folder: Path) -> Study:
    """Everything that a user names has a name that would do harm."""
    arms = {name: around(0.3 + 0.1 * index, spread=0.02) for index, name in enumerate(HOSTILE)}
    failed: dict[str, Mapping[int, float | None]] = {**arms, "broken": dict.fromkeys(range(1, 6))}
    study = make(
        folder, {HOSTILE[0]: failed, HOSTILE[1]: arms}, pilot={HOSTILE[0]: {1e-3: 0.9, 2e-3: 0.7}},
        name=HOSTILE[1], title=HOSTILE[0], command=HOSTILE[1], notes=list(HOSTILE),
        views=dict.fromkeys([*arms, "broken"], HOSTILE[:2]),
    )  # fmt: skip
    for run in study.runs:
        if run.arm == "broken":
            made = a_record("broken", run.task, run.seed, None)
            made.error, made.status = f"ValueError: {HOSTILE[1]}", Status.failed
            keep(folder, made, run.name)
    return study
