"""Arms and tasks of a study as configs; arms that cannot be compared are refused."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorascope.config.schema import RunConfig, StudyConfig, TaskConfig, amount, as_dict
from lorascope.errors import ConfigError
from lorascope.evaluation.external_metrics import metrics_of
from lorascope.records.identity import identity
from lorascope.records.record import EVAL_LOSS, Metric
from lorascope.records.study_record import Arm, Task
from lorascope.reports.run_table import differing, flat

Compose = Callable[[Sequence[str]], RunConfig]
NAME = re.compile(r"[\w.+-]+(?: [\w.+-]+)*")
GIVEN = "as given"  # the view of a study without a budget
SAME_RANK = "same rank"
OWN_RANKS = " own ranks"  # behind the name of an arm that also stands unmatched


@dataclass(frozen=True)
class ArmOnTask:
    """An arm on a task."""

    arm: Arm
    task: Task
    overrides: tuple[str, ...]  # behind the command's own
    config: RunConfig  # of its final runs, but for seed and rate

    @property
    def key(self) -> tuple[str, str]:
        """Task and arm by name."""
        return self.task.name, self.arm.name


@dataclass(frozen=True)
class Design:
    """All that is compared."""

    views: list[str]
    reference: str
    cells: list[ArmOnTask]

    @property
    def arms(self) -> list[Arm]:
        """Each once, in the order of the settings."""
        return list({cell.arm.name: cell.arm for cell in self.cells}.values())

    @property
    def tasks(self) -> list[Task]:
        """Each once, in the order of the settings."""
        return list({cell.task.name: cell.task for cell in self.cells}.values())


def design(study: StudyConfig, compose: Compose) -> Design:
    """The arms on the tasks.

    Args:
        study: its settings decide.
        compose: makes a config of overrides that stand behind the command's own.

    Raises:
        ConfigError: for settings that make no study, and for arms that differ in more than the study is about.
    """
    check_study(study)
    arms, views = _arms(study)
    reference = study.reference or arms[0].name
    if missing := [view for view in views if not any(arm.name == reference and view in arm.views for arm in arms)]:
        raise ConfigError(
            f"study.reference={reference}",
            f"does not stand in the comparison '{missing[0]}'.",
            f"Take the arm whose budget it is: study.reference={study.budget}",
        )
    cells = []
    for name, settings in (study.tasks or {"": TaskConfig()}).items():
        own = _overrides(f"study.tasks.{name}.words", settings.words)
        task: Task | None = None
        for arm in arms:
            overrides = (*own, *shlex.split(arm.words))
            config = compose(overrides)
            task = task or _task(name, settings, config)
            cells.append(ArmOnTask(arm, task, overrides, config))
        _comparable([cell for cell in cells if cell.task is task], study.axes)
    return Design(views, reference, cells)


def check_study(study: StudyConfig) -> None:
    """Refuse what makes no study.

    Raises:
        ConfigError: for the first such setting.
    """
    for problem in _problems(study):
        raise problem


def _problems(study: StudyConfig) -> Any:
    pilot = study.pilot
    for place, names in (("study.arms", study.arms), ("study.tasks", study.tasks)):
        for name in names:
            if not NAME.fullmatch(name):
                yield ConfigError(place, f"{name!r} is no name.", "Take letters, digits and _.+-")
    if study.reference is not None and study.reference not in study.arms:
        there = ", ".join(study.arms)
        yield ConfigError(f"study.reference={study.reference}", "is none of the arms.", f"There are: {there}.")
    if not study.seeds or len(set(study.seeds)) < len(study.seeds):
        yield ConfigError("study.seeds", f"{study.seeds} are not seeds, each once.", "Take study.seeds=[1,2,3,4,5]")
    for seed in [*study.seeds, pilot.seed]:
        if not 0 <= seed < 2**32:
            yield ConfigError("study.seeds", f"{seed} is not a seed.", "Take whole numbers from 0 to 4294967295.")
    if pilot.points and pilot.seed in study.seeds:
        what = f"{pilot.seed} is one of the study's own seeds, which must be fresh."
        yield ConfigError("study.pilot.seed", what, "Take another.")
    if not 0 < study.level <= 0.5:
        yield ConfigError("study.level", f"{study.level} is no share of false verdicts.", "Take 0.05.")
    for name, task in study.tasks.items():
        if not (math.isfinite(task.margin) and task.margin >= 0):
            yield ConfigError(f"study.tasks.{name}.margin", f"{task.margin} is no margin.", "Take a number from 0 up.")
    if not 0 <= pilot.points <= 100 or not 0 <= pilot.extend <= 100:
        yield ConfigError("study.pilot", "points and extend are whole numbers from 0 to 100.", "points: 5, extend: 3")
    shares = pilot.shares
    if not shares or shares[-1] != 1 or any(not a < b for a, b in zip([0, *shares], shares, strict=False)):
        what = f"{shares} are not shares of a training that grow to 1."
        yield ConfigError("study.pilot.shares", what, "Take study.pilot.shares=[0.25,0.5,1]")
    if study.same_rank and study.budget is None:
        yield ConfigError("study.same_rank", "without a budget the arms stand as their ranks are.", "Leave it out.")


def _overrides(place: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(place, f"{text!r} cannot be read: {error}.", "Close the quote.") from error


def _arms(study: StudyConfig) -> tuple[list[Arm], list[str]]:
    """Arms with the comparisons that they stand in."""
    given = {name: _overrides(f"study.arms.{name}", text) for name, text in study.arms.items()}
    if study.budget is None:
        return [Arm(name=name, words=shlex.join(own), views=[GIVEN]) for name, own in given.items()], [GIVEN]
    matched = f"{study.budget} parameters" if amount(study.budget) else f"{study.budget}'s budget"
    views = [matched, SAME_RANK] if study.same_rank else [matched]
    arms = []
    for name, overrides in given.items():
        if name == study.budget:
            arms.append(Arm(name=name, words=shlex.join(overrides), views=views))
            continue
        own = any(one.startswith("target.budget=") for one in overrides)
        sized = overrides if own else [*overrides, f"target.budget={study.budget}"]
        arms.append(Arm(name=name, words=shlex.join(sized), views=[matched]))
        placed = any(one.startswith("target=auto") for one in overrides)  # has no ranks without a budget
        if study.same_rank and not own and not placed:
            arms.append(Arm(name=name + OWN_RANKS, words=shlex.join(overrides), views=[SAME_RANK]))
    return arms, views


def _task(name: str, settings: TaskConfig, config: RunConfig) -> Task:
    """The task, with the direction and unit of what decides it."""
    metric = _metric(name, settings.metric, config)
    return Task(
        name=name or str(config.dataset.name),
        words=settings.words,
        metric=settings.metric,
        better=metric.better,
        unit=metric.unit,
        margin=settings.margin,
    )


def _metric(task: str, name: str, config: RunConfig) -> Metric:
    if name == EVAL_LOSS.name:
        return EVAL_LOSS
    known = metrics_of(config.dataset.metrics) if config.evaluation.tasks else []
    for metric in known:
        if metric.name == name.partition("/")[0]:
            return metric
    there = ", ".join([EVAL_LOSS.name, *(metric.name for metric in known)])
    place = f"study.tasks.{task}.metric={name}" if task else f"metric={name}"
    raise ConfigError(place, f"{config.dataset.name} is not judged by it.", f"There are: {there}.")


def _comparable(cells: Sequence[ArmOnTask], axes: Sequence[str]) -> None:
    """Refuse arms that differ in more than target, rate and seed, and what the study names."""
    free = ("target", "train.learning_rate", "model.learning_rate", "seed", "study", *axes)

    def settings(config: RunConfig) -> Mapping[str, Any]:
        return {
            key: value
            for key, value in flat(as_dict(config)).items()
            if not any(key == place or key.startswith(f"{place}.") for place in free)
        }

    first = cells[0]
    for cell in cells[1:]:
        for key, (one, other) in differing(settings(first.config), settings(cell.config)).items():
            raise ConfigError(
                f"study.arms.{cell.arm.name}",
                f"{key} is {other} there and {one} for {first.arm.name}, so more than the placement would differ.",
                f"Leave it out, or say that it may: study.axes=[{key}]",
            )
    ids: dict[str, str] = {}
    for cell in cells:
        same = repr(sorted(flat(_placement(cell.config)).items(), key=str))
        if same in ids:
            raise ConfigError(
                f"study.arms.{cell.arm.name}", f"is the same strategy as {ids[same]}.", "Leave one of them out."
            )
        ids[same] = cell.arm.name


def _placement(config: RunConfig) -> dict[str, Any]:
    """What decides the run, without the strategy's name."""
    nameless = dataclasses.replace(config, target=dataclasses.replace(config.target, name=""))
    return identity(nameless)
