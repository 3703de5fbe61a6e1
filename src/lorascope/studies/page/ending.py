"""The end of the page: what the study cost, and everything that is needed to make it again."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable

from lorascope.records.record import RunRecord
from lorascope.studies.cost import stages
from lorascope.studies.findings import Findings
from lorascope.studies.page import tables
from lorascope.studies.page.looks import Looks
from lorascope.studies.page.markup import Markup, element
from lorascope.studies.page.parts import section
from lorascope.studies.settings import flat
from lorascope.studies.standings import first_line
from lorascope.studies.study import PILOT


def cost(found: Findings, looks: Looks) -> Markup | None:
    """Time and memory."""
    if not any(one.runs for one in found.costs):
        return None
    spent = stages(found.study, found.records)
    total = sum(spent.values())
    lead = f"All runs took {_hours(total)}"
    if spent[PILOT] and total:
        lead += f", of which the pilot {_hours(spent[PILOT])} ({spent[PILOT] / total:.0%})"
    ratios = [
        one.memory_predicted_bytes / one.memory_peak_bytes
        for one in found.costs
        if one.memory_predicted_bytes and one.memory_peak_bytes
    ]
    if ratios:
        lead += f". The predicted memory was {statistics.median(ratios):.2f} of the measured peak (median)"
    return section("cost", "Cost", tables.costs(found, looks), lead=f"{lead}.")


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def environment(found: Findings, looks: Looks) -> Markup:
    """Command, settings, machine, versions and fingerprints."""
    study = found.study
    parts: list[object] = [element("h3", "Command"), element("pre", element("code", study.command), tabindex="0")]
    parts += [element("h3", "Study"), tables.pairs("study", _settings(found))]
    arms = [[tables.named(looks, arm.name), arm.words, ", ".join(arm.views)] for arm in study.arms]
    parts += [element("h3", "Arms"), tables.table("arms", ["arm", "words", "views"], arms)]
    tasks = [
        [task.name, task.words, task.metric, f"{task.better} is better", f"{task.margin:g} {task.unit}"]
        for task in study.tasks
    ]
    heads = ["task", "words", "metric", "direction", "margin"]
    parts += [element("h3", "Tasks"), tables.table("tasks", heads, tasks)]
    if failed := _not_done(found):
        heads = ["run", "status", "error"]
        parts += [element("h3", "Runs that are not done"), tables.table("runs that are not done", heads, failed)]
    records = list(found.records.values())
    if records:
        parts += [element("h3", "Machine and versions"), tables.pairs("machine and versions", _machine(records))]
        parts += [element("h3", "Fingerprints"), _fingerprints(found)]
    return section("environment", "Environment", *parts)


def _settings(found: Findings) -> list[tuple[str, object]]:
    study = found.study
    counted = Counter(run.stage for run in study.runs)
    return [
        ("name", study.name),
        ("model", found.model),
        ("seeds", ", ".join(map(str, study.seeds))),
        ("reference", study.reference),
        ("level", f"{study.level:g}"),
        ("views", ", ".join(study.views)),
        ("runs", ", ".join(f"{times} {stage}" for stage, times in counted.items()) or "none"),
        ("started", study.started),
        ("finished", study.finished or "not yet"),
    ]


def _not_done(found: Findings) -> list[list[object]]:
    rows: list[list[object]] = []
    for run in found.study.runs:
        record = found.records.get(run.name)
        if record is None:
            rows.append([run.name, "not run yet", ""])
        elif record.status != "done":
            rows.append([run.name, str(record.status), first_line(record.error).strip(" ()")])
    return rows


def _machine(records: Iterable[RunRecord]) -> list[tuple[str, object]]:
    """Each part of the environments, with every value that it had."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for key, value in flat(record.environment).items():
            found.setdefault(key.removeprefix("packages."), {})[str(value)] = None
    return [(key, "; ".join(values)) for key, values in found.items()]


def _fingerprints(found: Findings) -> Markup:
    """What the runs of each task shared; more than one line where they did not."""
    rows = Counter()  # type: ignore[var-annotated]
    for run in found.study.runs:
        if (record := found.records.get(run.name)) and record.fingerprint.get("hash"):
            parts = record.fingerprint
            shown = (
                "model",
                "revision",
                "quantization",
                "dtype",
                "attention",
                "device",
                "train_data",
                "eval_data",
                "hash",
            )
            rows[(run.task, *(str(parts.get(key, "-")) for key in shown))] += 1
    heads = [
        "task",
        "model",
        "revision",
        "quantization",
        "dtype",
        "attention",
        "device",
        "train data",
        "eval data",
        "fingerprint",
        "runs",
    ]
    return tables.table("fingerprints", heads, [[*key, times] for key, times in rows.items()], (10,))
