"""One line for every arm on every task: value, difference, verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lorascope.formats import Quantity, counted, quantity
from lorascope.records.record import EVAL_LOSS, RunRecord, Status
from lorascope.records.study_record import FINAL, Arm, Study, StudyRun, Task, Values, values_of
from lorascope.reports.run_table import ranks_of
from lorascope.stats.contrasts import contrasts, summary

LOSS = EVAL_LOSS.name
REFERENCE, NO_VERDICT = "reference", "no verdict"  # what stands beside the verdicts of the statistics


@dataclass(kw_only=True)
class Line:
    """An arm on one task in one view; intervals are of the mean over seeds. What is not known is None."""

    view: str
    task: str
    arm: str
    ranks: str
    parameters: int | None
    learning_rate: float | None
    metric: str
    n: int  # seeds with a value
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    eval_loss: float | None = None
    eval_loss_low: float | None = None
    eval_loss_high: float | None = None
    reference: str = ""
    difference: float | None = None  # arm minus reference
    difference_low: float | None = None
    difference_high: float | None = None
    p: float | None = None
    p_equivalence: float | None = None
    verdict: str = NO_VERDICT
    more_seeds: int | None = None
    reason: str = ""  # why runs are missing, or there is no verdict

    @property
    def half(self) -> float | None:
        """Half the width of the mean's interval."""
        return _half(self.low, self.high)

    @property
    def eval_loss_half(self) -> float | None:
        """Half the width of the mean eval loss's interval."""
        return _half(self.eval_loss_low, self.eval_loss_high)

    @property
    def words(self) -> str:
        """The verdict with what would settle it: inconclusive (about 6 seeds more)."""
        if not self.more_seeds or self.verdict in ("better", "worse", "equivalent"):
            return self.verdict
        return f"{self.verdict} (about {counted(self.more_seeds, 'seed')} more)"


@dataclass(kw_only=True)
class TaskComparison:
    """All arms of a view on one task."""

    view: str
    task: Task
    lines: list[Line]
    notes: list[str] = field(default_factory=list)  # what weakens it, or keeps it from a verdict

    @property
    def quantity(self) -> Quantity:
        """How the metric's values read."""
        return quantity(self.task.unit, [line.half for line in self.lines] + [self.task.margin])

    @property
    def loss_quantity(self) -> Quantity:
        """How the eval losses read."""
        return quantity("nats/token", [line.eval_loss_half for line in self.lines])


def comparisons(study: Study, records: Mapping[str, RunRecord], *, mixed: bool = False) -> list[TaskComparison]:
    """A comparison for each view and task, each with a line for every arm.

    Args:
        study: whose final runs are compared.
        records: by the runs' names, as far as there are any.
        mixed: whether runs of differing fingerprints may be compared.
    """
    return [_comparison(study, records, view, task, mixed) for view in study.views for task in study.tasks]


def _comparison(study: Study, records: Mapping[str, RunRecord], view: str, task: Task, mixed: bool) -> TaskComparison:
    arms = [arm for arm in study.arms if view in arm.views]
    names = {arm.name for arm in arms}
    values = _within(values_of(study, records, task.name, task.metric), names)
    losses = _within(values_of(study, records, task.name, LOSS), names)
    lines = [_line(study, records, view, task, arm, values[arm.name], losses[arm.name]) for arm in arms]
    notes, judged = [], study.reference in names
    if not judged:
        notes.append(f"The reference {study.reference} is not in this view, so nothing is compared with it.")
    if parts := _differing_parts([records[run.name] for run in _final(study, task, names) if run.name in records]):
        told = f"The runs' fingerprints differ in {', '.join(parts)}"
        judged = judged and mixed
        notes.append(f"{told}: compared all the same (--mixed)." if mixed else f"{told}, so there is no verdict.")
    if judged:
        _judge(study, task, values, lines)
    return TaskComparison(view=view, task=task, lines=lines, notes=notes)


def _half(low: float | None, high: float | None) -> float | None:
    return None if low is None or high is None else (high - low) / 2


def _within(values: Values, names: set[str]) -> Values:
    return {arm: seeds for arm, seeds in values.items() if arm in names}


def _final(study: Study, task: Task, arms: set[str]) -> list[StudyRun]:
    return [run for run in study.runs if run.stage == FINAL and run.task == task.name and run.arm in arms]


def _line(
    study: Study, records: Mapping[str, RunRecord], view: str, task: Task, arm: Arm, values: dict[int, float],
    losses: dict[int, float],
) -> Line:  # fmt: skip
    runs = _final(study, task, {arm.name})
    plan = next((records[run.name].plan for run in runs if run.name in records and records[run.name].plan), {})
    line = Line(
        view=view,
        task=task.name,
        arm=arm.name,
        ranks=ranks_of(plan.get("modules", [])) or arm.ranks,
        parameters=plan.get("trainable_parameters", arm.parameters),
        learning_rate=study.rates.get(task.name, {}).get(arm.name, runs[0].rate if runs else None),
        metric=task.metric,
        n=len(values),
        reference=study.reference,
        reason=_missing(runs, records, task.metric, values),
    )
    found, loss = (summary(one.values(), level=study.level) for one in (values, losses))
    line.mean, line.sd, line.low, line.high = found.mean, found.sd, found.low, found.high
    line.eval_loss, line.eval_loss_low, line.eval_loss_high = loss.mean, loss.low, loss.high
    return line


def _missing(
    runs: Sequence[StudyRun], records: Mapping[str, RunRecord], metric: str, values: Mapping[int, float]
) -> str:
    """Why an arm has fewer values than runs: 3 of 5 seeds: 1 failed (ValueError: no), 1 not run yet."""
    if not runs:
        return "no run is planned"
    why = Counter(_why(records.get(run.name), metric) for run in runs if run.seed not in values)
    if not why:
        return ""
    told = ", ".join(f"{times} {reason}" for reason, times in why.items())
    return f"{len(values)} of {len({run.seed for run in runs})} seeds: {told}"


def _why(record: RunRecord | None, metric: str) -> str:
    if record is None:
        return "not run yet"
    if record.status is Status.done:
        return f"without {metric}" if record.metric(metric) is None else f"whose {metric} is no number"
    return f"{record.status}{first_line(record.error)}"


def first_line(error: str | None) -> str:
    """The beginning of an error, in brackets; nothing where there is none."""
    lines = (error or "").strip().splitlines()
    return f" ({lines[0][:100]})" if lines else ""


def _differing_parts(records: Sequence[RunRecord]) -> list[str]:
    """The parts of the fingerprint in which runs that are done differ."""
    known = [one.fingerprint for one in records if one.status is Status.done and one.fingerprint.get("hash")]
    if len({one["hash"] for one in known}) < 2:
        return []
    keys = dict.fromkeys(key for one in known for key in one if key != "hash")
    return [key for key in keys if any(one.get(key) != known[0].get(key) for one in known)] or ["their hash"]


def _judge(study: Study, task: Task, values: Values, lines: Sequence[Line]) -> None:
    """The verdicts of the statistics, onto the lines."""
    found = contrasts(values, study.reference, better=task.better, margin=task.margin, level=study.level)
    by_arm = {one.arm: one for one in found}
    for line in lines:
        if line.arm == study.reference:
            line.verdict = REFERENCE
            continue
        one = by_arm[line.arm]
        line.difference, line.difference_low, line.difference_high = one.difference, one.low, one.high
        line.p, line.p_equivalence = one.p, one.p_equivalence
        line.verdict, line.more_seeds = str(one.verdict), one.more_seeds
        if line.n and not values[study.reference]:
            line.reason = "; ".join(filter(None, (line.reason, f"{study.reference} has no value to compare with")))
