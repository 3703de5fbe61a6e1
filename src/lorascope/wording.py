"""Numbers as people read them: counts, sizes and layers come in, words go out."""

from __future__ import annotations

from collections.abc import Iterable


def count(parameters: int) -> str:
    """A number of parameters for reading: 7.24 B, 134.5 M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= size:
            return f"{parameters / size:.{2 if letter == 'B' else 1}f} {letter}"
    return str(parameters)


def megabytes(size: float) -> str:
    """A number of bytes for reading."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def duration(seconds: float) -> str:
    """Seconds as people say them: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def short(number: float) -> str:
    """Four digits of a number, and no zeros behind them."""
    return f"{number:.4g}"


def spans(numbers: Iterable[int]) -> str:
    """Layer numbers in short: 0-3, 7."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)
