"""Which layers a strategy takes: what `target.layers` says comes in, layer numbers come out."""

from __future__ import annotations

import re
from typing import Any

from lorascope.errors import PlanError

EVERY = re.compile(r"every_(\d{1,9})(?:_from_(\d{1,9}))?")
RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
LONGEST_TOLD = 60  # characters of what was written, in an error
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
    spans = [_numbers(str(item).strip(), layers) for item in items]
    # the spans are looked at before they become numbers: 0-99999999999 would not fit into memory
    if outside := sorted(max(span.start, layers) for span in spans if span and span[-1] >= layers):
        raise PlanError(
            "target.layers", f"{outside[0]} is out of range: the model has {layers}.", f"Take 0 to {layers - 1}."
        )
    return tuple(sorted({number for span in spans for number in span}))


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
    told = word if len(word) <= LONGEST_TOLD else f"{word[:LONGEST_TOLD]}…"
    raise PlanError("target.layers", f"'{told}' names no layers.", f"Take {FORMS}.")
