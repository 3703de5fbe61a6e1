"""Read the values of a column as classes: by name, or by index."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any


def class_name(value: Any, labels: Sequence[str]) -> str | None:
    """The class that a value names: its text, or for true, false and numbers what is written so."""
    if isinstance(value, str) and value.strip() in labels:
        return value.strip()
    value = switch(value)
    if isinstance(value, bool):
        return next((label for label in labels if label.casefold() == str(value).casefold()), None)
    if isinstance(value, int | float):
        return next((label for label in labels if _number(label) == value), None)
    return None


def class_index(value: Any, labels: Sequence[str]) -> int | None:
    """The class that a value counts to from 0; true and false count where there are two."""
    value = switch(value)
    if isinstance(value, bool):
        return int(value) if len(labels) == 2 else None
    number = _number(value) if isinstance(value, str) else value
    if not isinstance(number, int | float) or number != number // 1 or not 0 <= number < len(labels):
        return None
    return int(number)


def counts_classes(values: Sequence[Any], labels: Sequence[str]) -> bool:
    """Whether a column's values are indices of classes, not names.

    Never where a class looks like a value that could be an index, nor where one value is the name of a class.
    """
    if any(_number(label) is not None or label.casefold() in ("true", "false") for label in labels):
        return False
    named = any(class_name(value, labels) is not None for value in values)
    return not named and any(class_index(value, labels) is not None for value in values)


def switch(value: Any) -> Any:
    """True or false where a text says so, as a CSV file does."""
    return {"true": True, "false": False}.get(value.strip().casefold(), value) if isinstance(value, str) else value


def _number(text: str) -> float | None:
    """The number that a text is, written in digits; None for other texts."""
    return float(text) if re.fullmatch(r"\s*[-+]?[0-9]+(\.[0-9]*)?\s*", text) else None
