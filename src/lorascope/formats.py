"""Numbers as text: counts, sizes, durations, values with uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

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


NONE = "-"


@dataclass(frozen=True)
class Quantity:
    """A unit and how many digits of it count; a share is shown in percent, a difference of shares in points."""

    unit: str
    places: int

    @property
    def share(self) -> bool:
        """Whether it is a part of something, from 0 to 1."""
        return self.unit.startswith("share")

    @property
    def of_differences(self) -> str:
        """The unit of a difference."""
        return "points" if self.share else self.unit

    def digits(self, value: float) -> str:
        """The bare number, as a table's column or an axis has it."""
        text = f"{value * (100 if self.share else 1):.{self.places}f}"
        return text.lstrip("-") if not float(text) else text  # no -0.00

    def value(self, value: float | None, half: float | None = None) -> str:
        """31.0 % ± 4.1."""
        if value is None or not math.isfinite(value):
            return NONE
        text = self.digits(value) + (" %" if self.share else "")
        return text if half is None or not math.isfinite(half) else f"{text} ± {self.digits(half)}"

    def difference(self, value: float | None, low: float | None = None, high: float | None = None) -> str:
        """+30.2 [25.1, 35.3]."""
        if value is None or not math.isfinite(value):
            return NONE
        digits = self.digits(value)
        text = digits if digits.startswith("-") or not float(digits) else f"+{digits}"
        return text if low is None or high is None else f"{text} [{self.digits(low)}, {self.digits(high)}]"


def quantity(unit: str, spreads: Iterable[float | None]) -> Quantity:
    """Digits down to the first that the typical spread leaves open; one more where that one would be a 1 or a 2.

    Args:
        unit: of the values, as the metric declares it.
        spreads: half widths of intervals, margins: positive, in the unit.
    """
    factor = 100 if unit.startswith("share") else 1
    known = sorted(one * factor for one in spreads if one and math.isfinite(one) and one > 0)
    least, most = (1, 2) if factor == 100 else (2, 4)
    if not known:
        return Quantity(unit, least if factor == 100 else 3)
    typical = known[len(known) // 2]
    return Quantity(unit, min(max(-math.floor(math.log10(typical / 3)), least), most))


def counted(number: int, noun: str) -> str:
    """A number of things: 1 run, 2 runs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
