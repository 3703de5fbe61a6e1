"""The small charts of the page: learning rates that were tried, and metrics with a row for each arm."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lorascope.studies.page.axes import BOLD, Scale, below, grid, plain_number, scale, shortened, spread, svg, width
from lorascope.studies.page.charts import Spot, axis_title, bar, line_through, minus, names_of
from lorascope.studies.page.looks import Looks, colour, mark
from lorascope.studies.page.markup import Markup, element, join
from lorascope.studies.pilot import Tried
from lorascope.studies.quantity import Quantity

WIDE, STEP, NAME = 300.0, 21.0, 100.0  # of the panels with a row for each arm; NAME is the longest name's width
SMALL, LOW = 204.0, 162.0  # of the panels of learning rates


def rates(arm: str, tried: Sequence[Tried], every: Sequence[Tried], chosen: float | None, looks: Looks) -> Markup:
    """An arm's eval loss by learning rate, a line for each rung; axes are those of all arms of the task."""
    known = [one for one in every if one.loss is not None]
    x = scale([one.rate for one in every], 36, SMALL - 10, log=True, room=0.08)
    y = scale([one.loss for one in known], LOW - 34, 12, log=_far([one.loss or 0.0 for one in known]))
    name = (lambda value: f"{value:g}") if y.log else plain_number(y.ticks())
    parts: list[object] = [grid(x, y, lambda rate: f"{rate:g}", name, 3)]
    parts.append(element("text", "learning rate", class_="title", x=x.end, y=LOW - 4, text_anchor="end"))
    rungs = sorted({one.rung for one in tried})
    for rung in rungs:
        points = [one for one in tried if one.rung == rung and one.loss is not None]
        fade = f"rung{min(rungs[-1] - rung, 2)}"
        if len(points) > 1:
            line = line_through([(x(one.rate), y(one.loss or 0.0)) for one in points])
            parts.append(element("path", class_=f"line {colour(looks, arm)} {fade}", d=line))
        for one in points:
            tip = f"{arm}, rate {one.rate:g}: eval loss {one.loss:.4g} after {one.steps:.0%} of the steps"
            parts.append(mark(looks, arm, x(one.rate), y(one.loss or 0.0), tip, f"small {fade}"))
    if chosen is not None:
        parts.append(element("line", class_="chosen", x1=x(chosen), x2=x(chosen), y1=y.end, y2=y.start))
    label = f"{arm}: eval loss by learning rate" + ("" if chosen is None else f"; chosen is {chosen:g}")
    return svg(SMALL, LOW, label, *parts)


def _far(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) > 4 * min(values)


def panel(
    title: str, quantity: Quantity, better: str, spots: Sequence[Spot], base: float | None, looks: Looks
) -> Markup:
    """A metric with a row for each arm; the base model's value is a dashed line, or an arrow where it lies far away."""
    names = [shortened(spot.arm, NAME, BOLD) for spot in spots]
    floor = 26 + STEP * len(spots)
    ends = [one for spot in spots for one in (spot.value, spot.low, spot.high) if one is not None]
    known = base is not None and math.isfinite(base)
    near = known and not far(base or 0.0, ends)
    x = scale([*ends, base if near else None], 12 + max(width(name, BOLD) for name in names), WIDE - 12)
    name = names_of(x, quantity)
    parts: list[object] = [element("line", class_="axis", x1=x.start, x2=x.end, y1=floor, y2=floor)]
    parts += [below(x, value, name(value), floor) for value in spread(x, name, 4)]
    parts.append(
        element("text", shortened(axis_title(title, quantity, better), WIDE), class_="title strong", x=2, y=12)
    )
    if known:
        parts.append(_base(base or 0.0, minus(quantity.value(base)), near, x, floor))
    for index, spot in enumerate(spots):
        y = 26 + STEP * (index + 0.5)
        tip = f"{spot.arm}: {minus(quantity.value(spot.value))}{spot.said}"
        parts.append(element("line", class_="grid", x1=x.start, x2=x.end, y1=y, y2=y))
        parts.append(element("text", names[index], class_="name", x=x.start - 8, y=y + 3.8, text_anchor="end"))
        parts.append(bar(looks, spot.arm, x, y, spot.low, spot.high))
        parts.append(mark(looks, spot.arm, x(spot.value), y, tip))
    return svg(WIDE, floor + 34, f"{title} of each arm, with intervals", *parts)


def far(base: float, ends: Sequence[float]) -> bool:
    """Whether the base's value would press those of the arms together."""
    low, high = min(ends), max(ends)
    return high > low and max(low - base, base - high) > 4 * (high - low)


def _base(base: float, words: str, near: bool, x: Scale, floor: float) -> Markup:
    """The base model's value."""
    place = x(base)  # at the end of the axis, where it lies beyond
    anchor = "start" if place < x.start + 60 else "end" if place > x.end - 60 else "middle"
    told = f"base {words}"
    text = told if near else f"← {told}" if base < x.low else f"{told} →"
    named = element("text", text, class_="title", x=place, y=floor + 29, text_anchor=anchor)
    title = element("title", f"base model: {words}")
    line = element("line", title, class_="base", x1=place, x2=place, y1=20, y2=floor) if near else None
    return join([line, named])
