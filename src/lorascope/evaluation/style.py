"""A text comes in, and how archaic its English is goes out."""

from __future__ import annotations

import re

from lorascope.data.archaic import is_archaic

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def archaic_rate(text: str) -> float:
    """The share of a text's words that are archaic, in [0, 1]; 0 where there is no word."""
    words = WORD.findall(text)
    return sum(map(is_archaic, words)) / len(words) if words else 0.0
