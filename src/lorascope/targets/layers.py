"""Layers by number: what `target.layers` says becomes numbers, and numbers become what people read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from lorascope.errors import PlanError

EVERY = re.compile(r"every_(\d+)(?:_from_(\d+))?")
RANGE = re.compile(r"(\d+)(?:-(\d+))?")
FORMS = "all, first_half, last_half, every_2, every_2_from_1, 16-31, or a list [0, 8, 31]"


def chosen_layers(wanted: Any, layers: int) -> tuple[int, ...]:
    """The layers that a strategy takes of a model that has so many, in order.

    Args:
        wanted: `all`; `first_half` and `last_half` (the middle layer of an odd number belongs to the last); `every_n`,
            from layer 0 or `every_n_from_k`; `a-b`, both ends included, or one number; a list of numbers and ranges.

    Raises:
        PlanError: for another word, or layers out of range.
    """
    items = wanted if isinstance(wanted, list | tuple) else [wanted]
    if not items:
        raise PlanError("target.layers", "no layer is named.", f"Take {FORMS}.")
    chosen: set[int] = set()
    for item in items:
        chosen |= set(_numbers(str(item).strip(), layers))
    if outside := sorted(number for number in chosen if number >= layers):
        raise PlanError(
            "target.layers", f"{outside[0]} is out of range: the model has {layers}.", f"Take 0 to {layers - 1}."
        )
    return tuple(sorted(chosen))


def _numbers(word: str, layers: int) -> range:
    if word == "all":
        return range(layers)
    if word == "first_half":
        return range(layers // 2)
    if word == "last_half":
        return range(layers // 2, layers)
    if (every := EVERY.fullmatch(word)) and int(every[1]) > 0:
        start = int(every[2] or 0)
        if start >= layers:
            return range(start, start + 1)  # out of range, and told so
        return range(start, layers, int(every[1]))
    if (span := RANGE.fullmatch(word)) and int(span[1]) <= int(span[2] or span[1]):
        return range(int(span[1]), int(span[2] or span[1]) + 1)
    raise PlanError("target.layers", f"'{word}' names no layers.", f"Take {FORMS}.")


def spans(numbers: Iterable[int]) -> str:
    """Layer numbers in short: 0-3, 7."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)
