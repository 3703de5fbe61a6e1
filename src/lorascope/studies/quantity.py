"""How a metric's values read: a unit and how sure the values are come in, words with as many digits as count go out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

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
