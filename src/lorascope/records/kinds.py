"""What kinds of values a file holds: its fields come in, an error comes out where one is another's.

Of a record, only what is counted on by who lists, compares and resumes runs is looked at; what is absent is older.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

LARGEST = 1e15


def check_kinds(fields: Mapping[str, Any], kinds: Mapping[str, str]) -> None:
    """Refuse a value of another kind.

    Args:
        fields: of the file.
        kinds: by dotted place, the widest first, since what is inside is looked for in tables and lists; `*` is each.

    Raises:
        TypeError: naming the first one.
    """
    for place, kind in kinds.items():
        for value in _at(fields, place.split(".")):
            if not FITS[kind](value):
                raise TypeError(f"'{place}' is not {kind} but {str(value)[:40]!r}")


def _at(values: Any, keys: list[str]) -> Iterator[Any]:
    """Every value at a dotted place; `*` is each of a table's or list's."""
    if not keys:
        yield values
    elif keys[0] == "*":
        for value in values.values() if isinstance(values, Mapping) else values:
            yield from _at(value, keys[1:])
    elif keys[0] in values:
        yield from _at(values[keys[0]], keys[1:])


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return value is None
    return abs(value) < LARGEST or (isinstance(value, float) and not math.isfinite(value))


FITS: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "text or null": lambda value: value is None or isinstance(value, str),
    "a table": lambda value: isinstance(value, dict),
    "a list": lambda value: isinstance(value, list),
    "a number": _is_number,
    "an amount": lambda value: _is_number(value) and (value is None or math.isfinite(value)),
    "a figure": lambda value: value is not None and _is_number(value) and math.isfinite(value),
    "a share": lambda value: FITS["a figure"](value) and 0 < value < 1,
    "a whole number": lambda value: _is_number(value) and not isinstance(value, float),
}
RECORD = {
    **dict.fromkeys(("run_id", "run_hash", "name", "started"), "text"),
    **dict.fromkeys(("finished", "error"), "text or null"),
    **dict.fromkeys(("config", "plan", "metrics", "timing", "memory", "data", "fingerprint", "environment"), "a table"),
    **dict.fromkeys(("config.target", "config.model", "config.dataset", "config.quantization"), "a table"),
    **dict.fromkeys(("config.train", "metrics.*", "environment.packages"), "a table"),
    **dict.fromkeys(("plan.modules", "sessions"), "a list"),
    **dict.fromkeys(("plan.modules.*", "sessions.*"), "a table"),
    **dict.fromkeys(("config.target.name", "config.model.name", "config.dataset.name"), "text or null"),
    **dict.fromkeys(("config.quantization.scheme", "fingerprint.hash", "sessions.*.started"), "text or null"),
    **dict.fromkeys(("metrics.*.better", "metrics.*.unit", "plan.modules.*.role"), "text or null"),
    **dict.fromkeys(("metrics.*.value", "metrics.*.base"), "a number"),  # NaN too
    **dict.fromkeys(("plan.trainable_parameters", "plan.trainable_percent", "config.train.learning_rate"), "an amount"),
    **dict.fromkeys(("plan.modules.*.alpha", "plan.modules.*.scale"), "an amount"),
    **dict.fromkeys(("timing.*", "memory.peak_bytes", "memory.predicted_bytes"), "an amount"),
    **dict.fromkeys(("plan.modules.*.rank", "plan.modules.*.layer", "plan.modules.*.parameters"), "a whole number"),
    "config.seed": "a whole number",
}
