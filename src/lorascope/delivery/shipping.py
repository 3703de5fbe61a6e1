"""Ship the winner of a study, or refuse: what the policy asks, a second measurement, the folder to deploy."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from lorascope.config.schema import ShipConfig, as_dict
from lorascope.delivery.checked_merge import DiffersError, check_same, merge_run
from lorascope.delivery.finished_run import FinishedRun, finished_run
from lorascope.delivery.gguf_adapter import export_gguf
from lorascope.delivery.model_card import Sections, write_card
from lorascope.delivery.ship_policy import ArmChoice, Candidate, RuleResult, choose
from lorascope.delivery.uniform_rank import export
from lorascope.errors import RunError
from lorascope.formats import counted, short
from lorascope.records.study_record import Task
from lorascope.reports.findings import Findings, find, is_study

REPORT = "ship.json"
FOLDERS = {"merged": "merged", "peft": "adapter", "vllm": "vllm", "llama.cpp": "llama.cpp"}


@dataclass(frozen=True)
class Shipment:
    """What became of it."""

    study: str
    choice: ArmChoice
    checks: list[RuleResult]  # of the arm that was taken, the merge's among them
    out: Path | None  # the folder to deploy; None where it was refused

    @property
    def refusals(self) -> list[str]:
        """A line for each reason."""
        return [check.refusal for check in self.checks if not check.passed]


def ship(
    folder: Path, policy: ShipConfig, out: Path, *, task: str | None = None, arm: str | None = None,
    device: str | None = None,
) -> Shipment:  # fmt: skip
    """Choose an arm of a study, ask the policy, and write the folder to deploy.

    Args:
        folder: of the study.
        policy: what the arm must show.
        out: the folder to write; it is complete afterwards, or absent.
        task: whose runs are deployed; may be left out where there is one.
        arm: taken instead of the cheapest that is not worse than the best.
        device: cpu or cuda; that of the run where it is not named.

    Raises:
        RunError: when there is nothing to ship, or a form cannot be written.
    """
    if out.exists():
        raise RunError(str(out), "is there already.", "Remove it, or name another folder: --out DIR")
    if not is_study(folder):
        remedy = "Name a study's folder, with a study.json; of a single run: lorascope merge RUN, or export"
        raise RunError(str(folder), "holds no study.", remedy)
    found = find(folder)
    choice = choose(found, policy, task=task, arm=arm)
    taken = choice.taken
    if not taken.passed:
        return Shipment(found.study.name, choice, taken.checks, None)
    assert taken.record
    run = finished_run(taken.record, folder / taken.record.name).on(device)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as aside:
        place = Path(aside, "ship")
        place.mkdir()
        checks = [*taken.checks, *_write(run, policy, taken.task, place, _said(found, choice))]
        shipment = Shipment(found.study.name, choice, checks, out)
        if shipment.refusals:
            return Shipment(found.study.name, choice, checks, None)
        report = as_report(shipment, policy)
        (place / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        os.rename(place, out)
    return shipment


def _write(run: FinishedRun, policy: ShipConfig, task: Task, place: Path, sections: Sections) -> list[RuleResult]:
    """Every form that is to be delivered, and what was checked on the way."""
    checks = []
    if policy.merged_equals_evaluated or "merged" in policy.deliver:
        merged = place / FOLDERS["merged"]
        checks.append(_merged(run, policy, task, merged, sections))
        if not checks[-1].passed:
            return checks
        if "merged" not in policy.deliver:
            shutil.rmtree(merged)
    for form in policy.deliver:
        folder = place / FOLDERS[form]
        if form == "peft":
            shutil.copytree(run.adapter, folder)  # PEFT reads a rank and a scale for each module
        elif form == "vllm":
            export(run.adapter, folder, form, run.base_name)
            check_same(run, folder)
        elif form == "llama.cpp":
            export_gguf(run.adapter, folder, run.stored_config(), run.base_name)
        if form != "merged":
            write_card(run.record, folder, sections=sections)
    return checks


def _merged(run: FinishedRun, policy: ShipConfig, task: Task, folder: Path, sections: Sections) -> RuleResult:
    """Merge, and hold the metric against what was evaluated."""
    setting = "merged_equals_evaluated"
    try:
        found = merge_run(run, folder, check=policy.merged_equals_evaluated, sections=sections)
    except DiffersError as error:
        return RuleResult(setting, f"merged, {error.what.rstrip('.')}", False)
    if not policy.merged_equals_evaluated:
        return RuleResult(setting, "merged, and not measured again", True)
    one = found["metrics"].get(task.metric)
    if one is None:
        return RuleResult(setting, f"{task.metric} cannot be measured again on the merged model", False)
    passed = abs(one["merged"] - one["evaluated"]) <= task.margin
    sign = "at most" if passed else "more than"
    text = f"merged, {task.metric} is {one['merged']:.4f}; evaluated {one['evaluated']:.4f}"
    return RuleResult(setting, f"{text}: {sign} {short(task.margin)} apart", passed)


def _said(found: Findings, choice: ArmChoice) -> Sections:
    """What the card says of the study."""
    taken, line = choice.taken, choice.taken.line
    about = f"Arm {taken.arm} of the study {found.study.name} ({found.study.title or 'no title'}), {choice.why}."
    run = f"The run is the middle one of {counted(taken.seeds, 'seed')} by {taken.task.metric}."
    facts = ". ".join(check.text[0].upper() + check.text[1:] for check in taken.checks)
    mean = ""
    if line.mean is not None and line.low is not None and line.high is not None:
        mean = f" Over seeds {line.metric} is {line.mean:.4f} [{line.low:.4f}, {line.high:.4f}]."
    return {"The study that it comes from": [about, run + mean, facts + "."]}


def as_report(shipment: Shipment, policy: ShipConfig) -> dict[str, Any]:
    """The decision, JSON-ready."""
    taken = shipment.choice.taken
    return {
        "study": shipment.study,
        "arm": taken.arm,
        "task": taken.task.name,
        "run": taken.record.name if taken.record else None,
        "seeds": taken.seeds,
        "why": shipment.choice.why,
        "shipped": shipment.out is not None,
        "checks": [{"setting": one.setting, "found": one.text, "passed": one.passed} for one in shipment.checks],
        "policy": as_dict(policy),
    }


def show(out: Console, shipment: Shipment, folder: Path) -> None:
    """Print the decision: what was found, then the folder, or each reason on a line."""
    taken = shipment.choice.taken
    record = taken.record
    seed = f"seed {record.config['seed']} (middle of {taken.seeds})" if record else ""
    out.print(Text.assemble((f"arm {taken.arm}", "bold"), f", {seed}: {shipment.choice.why}"))
    for check in shipment.checks:
        out.print(Text.assemble("  ", ("ok  " if check.passed else "no  ", "" if check.passed else "red"), check.text))
    if shipment.out:
        out.print(Text.assemble(("shipped", "bold green"), f"  {shipment.out}"))
        return
    for refusal in shipment.refusals:
        out.print(Text.assemble(("REFUSED", "bold red"), f": {refusal}"))
    for other in _passing(shipment.choice.others):
        out.print(f"  {other.arm} passes ({other.facts}): lorascope ship {folder} --arm {other.arm}")


def _passing(others: Sequence[Candidate]) -> list[Candidate]:
    return [one for one in others if one.passed]


def plain(shipment: Shipment, report: Mapping[str, Any]) -> dict[str, Any]:
    """For --json: the report, the folder, and the arms that would pass."""
    out = str(shipment.out) if shipment.out else None
    return {**report, "out": out, "passing": [one.arm for one in _passing(shipment.choice.others)]}
