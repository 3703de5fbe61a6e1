"""Formats numbers for people: counts, sizes, durations, layers."""

from __future__ import annotations

from collections.abc import Iterable

SMALLEST = 0.05 * 2**30  # bytes that round to 0.1 GiB
FLOP = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


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
    """Seconds as people say them: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def gibibytes(size: float) -> str:
    """A number of bytes in GiB, as one of several parts: 3.8, <0.1."""
    return f"{size / 2**30:.1f}" if size >= SMALLEST else "<0.1"


def flop(number: float) -> str:
    """Floating-point operations for reading: 29 GFLOP, 1.8 EFLOP."""
    for size, letter in FLOP:
        if number >= size:
            value = number / size
            return f"{value:.1f} {letter}FLOP" if value < 10 else f"{value:.0f} {letter}FLOP"
    return f"{number:.0f} FLOP"


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
