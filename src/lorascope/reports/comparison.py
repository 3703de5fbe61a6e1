"""What differs between two runs, and which did better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorascope.formats import megabytes, spans
from lorascope.records.record import RunRecord
from lorascope.reports.run_table import deciding, differing, flat

Pairs = dict[str, list[Any]]  # key -> [of the first run, of the second]
TOTALS = ("trainable_parameters", "stored_parameters", "trainable_percent", "base_parameters", "alpha_policy")
PARTS = ("plan", "data", "fingerprint", "environment", "metrics")


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """Two runs side by side; every pair is [first, second], null where a run has no value."""

    runs: list[dict[str, Any]]
    same_settings: bool
    equal: bool  # in everything but time, memory, and where it was kept and told
    not_recorded: list[list[str]]  # parts that each run lacks, since it did not come so far; they are not compared
    comparable: bool | None  # null: a run has no fingerprint
    fingerprint: Pairs
    config: Pairs
    config_without_effect: Pairs  # where and to whom things are told, and presets' suggestions
    plan: dict[str, Pairs]  # role -> what differs of its rank, alpha, scale, parameters, modules, layers
    plan_totals: Pairs
    data: Pairs
    versions: Pairs
    machine: Pairs
    metrics: dict[str, dict[str, Any]]
    timing: Pairs  # all values, equal or not
    memory: Pairs


def compare_runs(first: RunRecord, second: RunRecord) -> RunComparison:
    """Both records side by side. Only what differs is kept, but for metrics, timing and memory."""
    config = differing(deciding(first), deciding(second))
    settings = differing(flat(first.config), flat(second.config))
    versions, machine = _environment(first, second)
    comparable = _comparable(first, second)
    metrics = _metrics(first, second, judged=comparable is True)
    planned = bool(first.plan and second.plan)
    differences: dict[str, Any] = {
        "config": config,
        "fingerprint": _where_recorded(first.fingerprint, second.fingerprint),
        "plan": _roles(first, second) if planned else {},
        "plan_totals": differing(_totals(first), _totals(second)) if planned else {},
        "data": _where_recorded(first.data, second.data),
        "versions": versions,
        "machine": machine,
    }
    not_recorded = [[part for part in PARTS if not getattr(record, part)] for record in (first, second)]
    same_values = not_recorded[0] == not_recorded[1] and all(
        one["values"][0] == one["values"][1] for one in metrics.values()
    )
    return RunComparison(
        runs=[_head(first), _head(second)],
        same_settings=not config,
        equal=first.status is second.status and same_values and not any(differences.values()),
        not_recorded=not_recorded,
        comparable=comparable,
        config_without_effect={key: pair for key, pair in settings.items() if key not in config},
        metrics=metrics,
        timing=_both(first.timing, second.timing),
        memory=_both(first.memory, second.memory),
        **differences,
    )


def _head(record: RunRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "run_id": record.run_id,
        "status": str(record.status),
        "seed": record.config.get("seed"),
        "started": record.started,
        "error": record.error,
    }


def _comparable(first: RunRecord, second: RunRecord) -> bool | None:
    hashes = [record.fingerprint.get("hash") for record in (first, second)]
    return None if None in hashes else hashes[0] == hashes[1]


def _both(first: Mapping[str, Any], second: Mapping[str, Any]) -> Pairs:
    return {key: [first.get(key), second.get(key)] for key in dict.fromkeys([*first, *second])}


def _where_recorded(first: Mapping[str, Any], second: Mapping[str, Any]) -> Pairs:
    """What differs, in a part that both runs have."""
    return differing(flat(first), flat(second)) if first and second else {}


def _environment(first: RunRecord, second: RunRecord) -> tuple[Pairs, Pairs]:
    """Versions, and what else differs in the machine."""
    pairs = _where_recorded(first.environment, second.environment)
    versions = {
        key.removeprefix("packages."): pair
        for key, pair in pairs.items()
        if key.startswith("packages.") or key in ("python", "cuda")
    }
    return versions, {key: pair for key, pair in pairs.items() if key.removeprefix("packages.") not in versions}


def _totals(record: RunRecord) -> dict[str, Any]:
    return {key: record.plan.get(key) for key in TOTALS} | {"modules": len(record.plan.get("modules", []))}


def _roles(first: RunRecord, second: RunRecord) -> dict[str, Pairs]:
    """Role -> what differs in it; a role without an adapter has nulls."""
    before, after = _by_role(first), _by_role(second)
    found = {role: differing(before.get(role, {}), after.get(role, {})) for role in dict.fromkeys([*before, *after])}
    return {role: pairs for role, pairs in found.items() if pairs}


def _by_role(record: RunRecord) -> dict[str, dict[str, Any]]:
    """Role -> rank, alpha and scale (a list where its modules differ), parameters, modules, layers."""
    roles: dict[str, list[dict[str, Any]]] = {}
    for module in record.plan.get("modules", []):
        roles.setdefault(str(module.get("role")), []).append(module)
    return {
        role: {key: _distinct(modules, key) for key in ("rank", "alpha", "scale")}
        | {
            "parameters": sum(module.get("parameters") or 0 for module in modules),
            "modules": len(modules),
            "layers": sorted({module["layer"] for module in modules if module.get("layer") is not None}),
        }
        for role, modules in roles.items()
    }


def _distinct(modules: list[dict[str, Any]], key: str) -> Any:
    values = sorted({module[key] for module in modules if module.get(key) is not None}, reverse=True)
    return values[0] if len(values) == 1 else values or None


def _metrics(first: RunRecord, second: RunRecord, *, judged: bool) -> dict[str, dict[str, Any]]:
    """Metric -> values, bases, second minus first, and what the second is: better, worse or equal.

    `second_is` is null where the runs are not comparable or a value is missing.
    """
    found = {}
    for name in dict.fromkeys([*first.metrics, *second.metrics]):
        entries = [record.metrics.get(name, {}) for record in (first, second)]
        values = [record.metric(name) for record in (first, second)]
        direction = entries[0].get("better") or entries[1].get("better")
        difference = _difference(values)
        found[name] = {
            "values": values,
            "bases": [entry.get("base") for entry in entries],
            "difference": difference,
            "second_is": _verdict(difference, direction) if judged else None,
            "better": direction,
            "unit": entries[0].get("unit") or entries[1].get("unit"),
        }
    return found


def _difference(values: list[float | None]) -> float | None:
    first, second = values
    if first is None or second is None or not (math.isfinite(first) and math.isfinite(second)):
        return None
    return second - first


def _verdict(difference: float | None, direction: str | None) -> str | None:
    if difference is None or direction not in ("lower", "higher"):
        return None
    if difference == 0:
        return "equal"
    return "better" if (difference < 0) == (direction == "lower") else "worse"


def show_comparison(out: Console, found: RunComparison) -> None:
    """Print what differs; first whether the runs may be compared at all."""
    for letter, head in zip("AB", found.runs, strict=True):
        error = f": {str(head['error']).splitlines()[0]}" if head["error"] else ""
        _line(out, f"{letter}  {head['name']}   {head['status']}{error}")
    _line(out, "")
    if found.equal:
        _line(out, "The runs are equal: config, plan, data, fingerprint, environment and metrics.")
    else:
        _say_whether_comparable(out, found)
    _show_metrics(out, found.metrics)
    for title, pairs in (
        ("fingerprint", {key: pair for key, pair in found.fingerprint.items() if key != "hash"}),
        ("config", found.config),
        ("plan", _plan_lines(found)),
        ("data", found.data),
        ("versions", found.versions),
        ("machine", found.machine),
    ):
        _show_pairs(out, title, pairs)
    _show_pairs(out, "time and memory", {key: pair for key, pair in (found.timing | found.memory).items() if any(pair)})
    if found.config_without_effect:
        _line(out, f"\nAlso different, without effect on the result: {', '.join(found.config_without_effect)}")


def _say_whether_comparable(out: Console, found: RunComparison) -> None:
    if found.comparable is False:
        named = ", ".join(key for key in found.fingerprint if key != "hash") or "no part that both records name"
        _line(out, f"Not comparable as they stand: the fingerprints differ in {named}.", "yellow")
    elif found.comparable is None:
        without = [letter for letter, parts in zip("AB", found.not_recorded, strict=True) if "fingerprint" in parts]
        _line(out, f"Whether they are comparable is not known: no fingerprint in {' and '.join(without)}.", "yellow")
    else:
        _line(out, "Comparable: same data, base, number formats and kernels.")
    for letter, parts in zip("AB", found.not_recorded, strict=True):
        if parts:
            _line(out, f"{letter} did not come so far as to record: {', '.join(parts)}.")
    if found.versions:
        _line(out, f"Versions differ: {', '.join(found.versions)}.", "yellow")
    if found.machine:
        _line(out, f"Machines differ ({', '.join(found.machine)}): speed and memory are not the runs' own.", "yellow")
    if found.same_settings:
        _line(out, "Same settings: one run and its repetition.")
    elif "seed" in found.config:
        _line(out, "The seeds differ: a part of the difference is chance.")
    elif found.comparable:
        _line(out, "One run each: a first look, not a verdict.")


def _show_metrics(out: Console, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    if not metrics:
        return
    table = Table("metric", "A", "B", "B - A", "B is", "unit", box=None, pad_edge=False)
    for name, one in metrics.items():
        better = f"{one['unit'] or ''}, {one['better']} is better" if one["better"] else one["unit"] or ""
        difference = "-" if one["difference"] is None else f"{one['difference']:+.4f}"
        _row(table, name, *(_number(value) for value in one["values"]), difference, one["second_is"] or "-", better)
        if any(base is not None for base in one["bases"]):
            _row(table, "  before training", *(_number(base) for base in one["bases"]), "", "", "")
    _line(out, "")
    out.print(table)


def _plan_lines(found: RunComparison) -> Pairs:
    """`q rank`, `q alpha`, …, and the totals."""
    roles = {f"{role} {key}": pair for role, pairs in found.plan.items() for key, pair in pairs.items()}
    return roles | {f"all {key}": pair for key, pair in found.plan_totals.items()}


def _show_pairs(out: Console, title: str, pairs: Pairs) -> None:
    if not pairs:
        return
    table = Table(title, "A", "B", box=None, pad_edge=False)
    for key, pair in pairs.items():
        _row(table, key, *(_value(key, value) for value in pair))
    _line(out, "")
    out.print(table)


def _value(key: str, value: Any) -> str:
    if value is None or value == "":
        return "-"
    if key.endswith("layers") and isinstance(value, list) and all(type(number) is int for number in value):
        return spans(value)
    if key.endswith("_bytes") and isinstance(value, int | float):
        return megabytes(value)
    if isinstance(value, list):
        return "/".join(map(str, value)) or "[]"
    if isinstance(value, int) and not isinstance(value, bool) and key != "seed":
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _row(table: Table, *cells: str) -> None:
    # Text, since a value from a user's config may look like rich's markup
    table.add_row(*map(Text, cells))


def _line(out: Console, text: str, style: str = "") -> None:
    out.print(Text(text, style=style))
