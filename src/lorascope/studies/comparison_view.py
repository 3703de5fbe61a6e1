"""A comparison of two runs as lines and tables for the terminal. Never loads torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorascope.studies.comparison import Comparison, Pairs
from lorascope.wording import megabytes, spans


def show_comparison(out: Console, found: Comparison) -> None:
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


def _say_whether_comparable(out: Console, found: Comparison) -> None:
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


def _plan_lines(found: Comparison) -> Pairs:
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
