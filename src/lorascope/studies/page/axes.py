"""From values to places in a chart: a range comes in, a scale with round ticks and its grid as SVG goes out."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lorascope.studies.page.markup import Markup, element, join

LETTER = 6.2  # pixels that a letter of a label takes, about
BOLD = 1.2  # times as much, as the widest of usual fonts has it


def width(text: str, times: float = 1.0) -> float:
    """How many pixels a label takes, about."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return (len(text) + wide) * LETTER * times


def shortened(text: str, pixels: float, times: float = 1.0) -> str:
    """A label that is not wider than its place."""
    if width(text, times) <= pixels:
        return text
    while text and width(f"{text}…", times) > pixels:
        text = text[:-1]
    return f"{text.rstrip()}…"


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` lie from `start` to `end`, in pixels of the chart."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies; one beyond the range lies at its end."""
        low, high, value = (self._flat(one) for one in (self.low, self.high, value))
        share = (value - low) / (high - low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def _flat(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value

    def ticks(self, most: int = 5) -> list[float]:
        """Round values within the range."""
        return log_ticks(self.low, self.high, most) if self.log else linear_ticks(self.low, self.high, most)


def scale(
    values: Iterable[float | None], start: float, end: float, *, log: bool = False, room: float = 0.06,
    zero: bool = False,
) -> Scale:  # fmt: skip
    """A scale on which all of the values have room.

    Args:
        values: None and what is not finite is left out; of a logarithmic scale, what is not positive too.
        start: of the range, in pixels.
        end: of the range, in pixels.
        log: whether it is logarithmic.
        room: beyond the outermost values, as a share of the range.
        zero: whether 0 is to be seen.
    """
    known = [value for value in values if value is not None and math.isfinite(value) and (value > 0 or not log)]
    known += [0.0] if zero else []
    low, high = (min(known), max(known)) if known else (1.0, 2.0)
    if log:
        factor = max((high / low) ** room, 1.15)
        return Scale(low / factor, high * factor, start, end, log=True)
    wide = max((high - low) * room, abs(high) * 1e-6, 1e-9) if high > low else max(abs(high) * 0.1, 0.01)
    return Scale(low - wide, high + wide, start, end)


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """At most so many multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / max(most, 1)))
    found: list[float] = []
    for step in (power * times for times in (1, 2, 5, 10, 20)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)  # but for rounding
        found = [step * index for index in range(first, last + 1)]
        if len(found) <= most:
            break
    return found


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """At most so many of 1, 2 and 5 times the powers of ten, or of these alone."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        found = [digit * 10.0**power for power in powers for digit in digits]
        found = [value for value in found if low <= value <= high]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]


def plain_number(values: Sequence[float], factor: float = 1.0) -> Callable[[float], str]:
    """How the ticks read: with as many decimals as tell them apart."""
    steps = [abs(b - a) * factor for a, b in pairwise(values)]
    places = max(0, -math.floor(math.log10(min(steps)) + 1e-9)) if steps and min(steps) > 0 else 2
    return lambda value: f"{value * factor:.{min(places, 6)}f}".replace("-", "−")


def grid(x: Scale, y: Scale, x_name: Callable[[float], str], y_name: Callable[[float], str], most: int = 5) -> Markup:
    """Lines at the ticks of y, and the ticks' names on both axes."""
    parts = []
    for value in y.ticks():
        parts.append(element("line", class_="grid", x1=x.start, x2=x.end, y1=y(value), y2=y(value)))
        parts.append(element("text", y_name(value), class_="tick", x=x.start - 5, y=y(value) + 3.5, text_anchor="end"))
    parts.append(element("line", class_="axis", x1=x.start, x2=x.end, y1=y.start, y2=y.start))
    parts += [below(x, value, x_name(value), y.start) for value in spread(x, x_name, most)]
    return join(parts)


def below(x: Scale, value: float, name: str, floor: float) -> Markup:
    """A tick of the x axis with its name."""
    place = x(value)
    mark = element("line", class_="axis", x1=place, x2=place, y1=floor, y2=floor + 4)
    return join([mark, element("text", name, class_="tick", x=place, y=floor + 15, text_anchor="middle")])


def spread(x: Scale, name: Callable[[float], str], most: int) -> list[float]:
    """The ticks of x whose names do not touch each other."""
    kept: list[float] = []
    for value in x.ticks(most):
        half = width(name(value)) / 2
        if not kept or x(value) - half > x(kept[-1]) + width(name(kept[-1])) / 2 + 5:
            kept.append(value)
    return kept


def titles(above: str, beneath: str, x: Scale, bottom: float) -> Markup:
    """What the axes are: of y above the chart, of x beneath it."""
    top = element("text", shortened(above, x.end), class_="title", x=2, y=11)
    name = shortened(beneath, x.end)
    return join([top, element("text", name, class_="title", x=x.end, y=bottom, text_anchor="end")])


def svg(width: float, height: float, label: str, *children: object) -> Markup:
    """A chart, with what it shows in words for those who cannot see it."""
    return element(
        "svg", *children, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label, class_="chart",
        style=f"--w:{width:g}",
    )  # fmt: skip
