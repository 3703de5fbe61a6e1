"""Which arm of a study is deployed, and whether a policy lets it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lorascope.config.schema import CheapestBy, ShipConfig
from lorascope.errors import RunError
from lorascope.evaluation.forgetting import FORGETTING_KL
from lorascope.formats import counted, short
from lorascope.records.record import RunRecord, Status
from lorascope.records.study_record import FINAL, Task, values_of
from lorascope.reports.findings import Cost, Findings
from lorascope.reports.standings import Line, TaskComparison
from lorascope.stats.contrasts import contrasts, summary
from lorascope.stats.verdicts import FEWEST


@dataclass(frozen=True)
class RuleResult:
    """One rule of a policy, asked."""

    setting: str  # of the policy
    text: str  # what was found, with the limit
    passed: bool

    @property
    def refusal(self) -> str:
        """Why it refuses."""
        return f"{self.text} (ship.{self.setting})"


@dataclass(frozen=True)
class Candidate:
    """An arm on one task, the run of it that would be deployed, and what the policy says before anything is merged."""

    task: Task
    line: Line
    record: RunRecord | None
    seeds: int
    checks: list[RuleResult]

    @property
    def arm(self) -> str:
        """Its name."""
        return self.line.arm

    @property
    def passed(self) -> bool:
        """Whether nothing refuses it."""
        return self.record is not None and all(check.passed for check in self.checks)

    @property
    def facts(self) -> str:
        """What was found, in one line."""
        return ", ".join(check.text for check in self.checks if check.setting in ("min_gain", "max_forgetting"))


@dataclass(frozen=True)
class ArmChoice:
    """The arm that is taken, why, and the others."""

    taken: Candidate
    why: str
    others: list[Candidate]


def choose(found: Findings, policy: ShipConfig, *, task: str | None = None, arm: str | None = None) -> ArmChoice:
    """The cheapest arm that is shown to be not worse than the best, or the one that is named.

    An arm is not worse when the paired t interval of its difference to the arm with the best mean, at the study's
    level divided by the arms compared, lies above minus the margin; where no cheaper one is, the best is taken.

    Args:
        found: a study's comparisons; the first view counts.
        policy: what an arm must show.
        task: whose runs are deployed; may be left out where there is one.
        arm: is taken, whatever it costs.

    Raises:
        RunError: when the task or the arm is not in the study, or no run of it is done.
    """
    comparison = _comparison_of(found, task)
    candidates = {line.arm: _candidate(found, policy, comparison, line) for line in comparison.lines}
    ready = [name for name, one in candidates.items() if one.record]
    if arm is not None and arm not in candidates:
        raise RunError(f"--arm {arm}", "is not in this study.", f"There are: {', '.join(candidates)}.")
    if arm is not None and arm not in ready:
        raise RunError(f"--arm {arm}", "has no run that is done.", "Go on with the study: the same command.")
    if not ready:
        raise RunError(str(found.folder), "has no run that is done.", "Go on with the study: the same command.")
    cheap = _cost(found, comparison.task.name, policy.cheapest_by)
    order = sorted(ready, key=lambda name: cheap(candidates[name].line))
    best = _best(comparison)
    if arm is None:
        fine = _not_worse(found, comparison, best)
        arm = next(name for name in order if name in fine)
        cheaper = f"the cheapest arm ({policy.cheapest_by}) that is not worse than the best, {best}"
        why = cheaper if arm != best else f"the best arm; no cheaper one ({policy.cheapest_by}) is shown to be as good"
    else:
        why = "named by --arm"
    return ArmChoice(candidates[arm], why, [candidates[name] for name in order if name != arm])


def _comparison_of(found: Findings, task: str | None) -> TaskComparison:
    names = [one.name for one in found.study.tasks]
    if task is None and len(names) > 1:
        raise RunError(str(found.folder), f"has {len(names)} tasks.", f"Name one: --task {' | '.join(names)}")
    if task is not None and task not in names:
        raise RunError(f"--task {task}", "is not in this study.", f"There are: {', '.join(names)}.")
    return next(one for one in found.comparisons if one.task.name == (task or names[0]))


def _best(comparison: TaskComparison) -> str:
    known = [line for line in comparison.lines if line.mean is not None]
    sign = 1 if comparison.task.better == "higher" else -1
    return max(known, key=lambda line: sign * (line.mean or 0.0)).arm


def _not_worse(found: Findings, comparison: TaskComparison, best: str) -> set[str]:
    """The best arm and those that are shown to be within the margin of it, or above."""
    task = comparison.task
    names = {line.arm for line in comparison.lines}
    values = {a: v for a, v in values_of(found.study, found.records, task.name, task.metric).items() if a in names}
    level = found.study.level / max(1, len(values) - 1)
    shown = {best}
    for one in contrasts(values, best, better=task.better, margin=task.margin, level=level):
        if one.n >= FEWEST and one.low is not None and one.high is not None:
            worst = one.low if task.better == "higher" else -one.high
            shown |= {one.arm} if worst > -task.margin else set()
    return shown


def _cost(found: Findings, task: str, by: CheapestBy) -> Callable[[Line], float]:
    spent: Mapping[str, Cost] = {one.arm: one for one in found.costs if one.task == task}

    def cost(line: Line) -> float:
        known = {
            CheapestBy.parameters: line.parameters,
            CheapestBy.seconds: spent[line.arm].time_seconds,
            CheapestBy.memory: spent[line.arm].memory_peak_bytes,
        }[by]
        return math.inf if known is None else float(known)

    return cost


def _candidate(found: Findings, policy: ShipConfig, comparison: TaskComparison, line: Line) -> Candidate:
    task = comparison.task
    runs = [run for run in found.study.runs if (run.stage, run.task, run.arm) == (FINAL, task.name, line.arm)]
    records = [found.records[run.name] for run in runs if run.name in found.records]
    done = [one for one in records if one.status is Status.done and one.metric(task.metric) is not None]
    record = _median(done, task)
    checks = []
    if policy.all_seeds:
        text = f"{len(done)} of {counted(len(runs), 'run')} done"
        checks.append(RuleResult("all_seeds", text, len(done) == len(runs)))
    checks.append(_gain(done, task, policy, found.study.level))
    if policy.max_forgetting is not None:
        checks.append(_forgetting(record, policy.max_forgetting))
    text = (
        f"verdict against {found.study.reference}: {line.words}" if line.verdict != "reference" else "is the reference"
    )
    checks.append(RuleResult("verdicts", text, line.verdict in policy.verdicts))
    return Candidate(task, line, record, len(done), checks)


def _median(records: Sequence[RunRecord], task: Task) -> RunRecord | None:
    """The run with the middle value, of two the worse: the best of several seeds would promise too much."""
    if not records:
        return None
    order = sorted(records, key=lambda one: one.metric(task.metric) or 0.0, reverse=task.better == "lower")
    return order[(len(order) - 1) // 2]


def _gain(records: Sequence[RunRecord], task: Task, policy: ShipConfig, level: float) -> RuleResult:
    """The gain over the base, with its interval over seeds; up is good, whatever the metric."""
    sign = 1 if task.better == "higher" else -1
    limit = policy.min_gain.get(task.name, task.margin)
    bases = [one.metrics[task.metric].get("base") for one in records]
    if not records or any(base is None for base in bases):
        return RuleResult("min_gain", f"gain in {task.metric} over the base is not known", False)
    gains = [
        sign * ((one.metric(task.metric) or 0.0) - float(base or 0.0)) for one, base in zip(records, bases, strict=True)
    ]
    found = summary(gains, level=level)
    middle = statistics.fmean(gains)
    if found.low is None or found.high is None:
        text = f"gain in {task.metric} {middle:+.3g}, of one seed and without an interval"
        return RuleResult("min_gain", text, False)
    ends = f"[{found.low:.3g}, {found.high:.3g}]"
    passed = found.low >= limit
    text = f"gain in {task.metric} {middle:+.3g} {ends} {'>=' if passed else 'is not surely'} {short(limit)}"
    return RuleResult("min_gain", text, passed)


def _forgetting(record: RunRecord | None, most: float) -> RuleResult:
    value = record.metric(FORGETTING_KL.name) if record else None
    if value is None:
        return RuleResult("max_forgetting", "forgetting was not measured", False)
    sign = "<=" if value <= most else "exceeds"
    return RuleResult(
        "max_forgetting", f"forgetting {value:.3g} {sign} {short(most)} {FORGETTING_KL.unit}", value <= most
    )
