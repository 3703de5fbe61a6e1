"""The charts of the page: values with their intervals come in, SVG goes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorascope.studies.curves import Curve
from lorascope.studies.front import front
from lorascope.studies.page.axes import (
    BOLD,
    Scale,
    below,
    grid,
    plain_number,
    scale,
    shortened,
    spread,
    svg,
    titles,
)
from lorascope.studies.page.looks import Looks, colour, dashes, label_places, mark
from lorascope.studies.page.markup import Markup, element, join
from lorascope.studies.plots import tick
from lorascope.studies.quantity import NONE, Quantity
from lorascope.studies.standings import REFERENCE, Comparison, Line
from lorascope.studies.study import Task

WIDTH, HEIGHT = 360.0, 250.0
ROW = 36.0  # of the chart of differences


@dataclass(frozen=True)
class Spot:
    """A value of an arm with its interval, where it has one."""

    arm: str
    value: float
    low: float | None = None
    high: float | None = None
    said: str = ""  # beside the value, where a pointer rests on it


def minus(text: str) -> str:
    """With the sign that is as wide as the plus."""
    return text if text == NONE else text.replace("-", "−")


def axis_title(name: str, quantity: Quantity, better: str = "") -> str:
    """What an axis shows: exact_match (%, higher is better)."""
    inside = ", ".join(filter(None, ("%" if quantity.share else quantity.unit, better and f"{better} is better")))
    return f"{name} ({inside})" if inside else name


def _factor(quantity: Quantity) -> float:
    return 100.0 if quantity.share else 1.0


def names_of(axis: Scale, quantity: Quantity) -> Callable[[float], str]:
    """How the ticks of an axis read."""
    return plain_number(axis.ticks(), _factor(quantity))


def differences(found: Comparison, looks: Looks) -> Markup | None:
    """Each arm's difference to the reference with its interval, and the margin; None where there is none."""
    lines = [line for line in found.lines if line.difference is not None and line.verdict != REFERENCE]
    if not lines:
        return None
    margin, height = found.task.margin, ROW * len(lines) + 40
    reach = [one for line in lines for one in (line.difference, line.difference_low, line.difference_high)]
    x = scale([*reach, margin, -margin], 8, WIDTH - 8, zero=True)
    floor = height - 36
    parts = [
        element("rect", class_="margin", x=x(-margin), width=max(x(margin) - x(-margin), 0.5), y=2, height=floor - 2),
        element("line", class_="zero", x1=x(0), x2=x(0), y1=2, y2=floor),
        element("line", class_="axis", x1=x.start, x2=x.end, y1=floor, y2=floor),
    ]
    name = names_of(x, found.quantity)
    parts += [below(x, value, name(value), floor) for value in spread(x, name, 5)]
    unit = f" ({found.quantity.of_differences})" if found.quantity.of_differences else ""
    beneath = f"difference to {shortened(lines[0].reference, 110)}{unit}; shaded: the margin"
    parts.append(element("text", beneath, class_="title", x=x.end, y=height - 4, text_anchor="end"))
    parts += [_difference(found, line, looks, x, 2 + ROW * index) for index, line in enumerate(lines)]
    label = (
        f"{found.task.name}, {found.view}: differences to {lines[0].reference} in {found.task.metric} with intervals"
    )
    return svg(WIDTH, height, label, *parts)


def _difference(found: Comparison, line: Line, looks: Looks, x: Scale, top: float) -> Markup:
    told = minus(found.quantity.difference(line.difference, line.difference_low, line.difference_high))
    y = top + 25
    return join(
        [
            element("text", shortened(line.arm, 110, BOLD), class_="name", x=x.start, y=top + 13),
            element("text", f"{told}  {line.verdict}", class_="value", x=x.end, y=top + 13, text_anchor="end"),
            bar(looks, line.arm, x, y, line.difference_low, line.difference_high),
            mark(looks, line.arm, x(line.difference or 0.0), y, f"{line.arm}: {told}, {line.words}"),
        ]
    )


def bar(looks: Looks, arm: str, x: Scale, y: float, low: float | None, high: float | None) -> Markup | None:
    """A horizontal interval."""
    if low is None or high is None:
        return None
    return element("line", class_=f"bar {colour(looks, arm)}", x1=x(low), x2=x(high), y1=y, y2=y, data_arm=looks[arm])


def _post(looks: Looks, arm: str, x: float, y: Scale, low: float | None, high: float | None) -> Markup | None:
    """A vertical interval."""
    if low is None or high is None:
        return None
    return element("line", class_=f"bar {colour(looks, arm)}", x1=x, x2=x, y1=y(low), y2=y(high), data_arm=looks[arm])


def fronts(task: Task, lines: Sequence[Line], quantity: Quantity, looks: Looks) -> Markup:
    """Quality against trainable parameters, with the front that no arm lies beyond."""
    x = scale([line.parameters for line in lines], 46, WIDTH - 12, log=True, room=0.1)
    y = scale([one for line in lines for one in (line.mean, line.low, line.high)], HEIGHT - 40, 24)
    best = front(lines, task.better)
    steps = _steps([(x(line.parameters or 0), y(line.mean or 0.0)) for line in best], x.end)
    parts: list[object] = [
        grid(x, y, tick, names_of(y, quantity), 4),
        titles(axis_title(task.metric, quantity, task.better), "trainable parameters", x, HEIGHT - 6),
        element("path", class_="front", d=steps),
    ]
    spots = []
    for line in lines:
        place = x(line.parameters or 0), y(line.mean or 0.0)
        tip = f"{line.arm}: {minus(quantity.value(line.mean, line.half))}, {line.parameters:,} parameters"
        tip += ", on the front" if line in best else ""
        parts.append(_post(looks, line.arm, place[0], y, line.low, line.high))
        parts.append(mark(looks, line.arm, *place, tip, "" if line in best else "off"))
        spots.append((*place, line.arm))
    label = (
        f"{task.name}: {task.metric} against trainable parameters; on the front: {', '.join(one.arm for one in best)}"
    )
    return svg(WIDTH, HEIGHT, label, *parts, *label_places(spots, x.start, WIDTH - 2, 20, HEIGHT - 40))


def _steps(places: Sequence[tuple[float, float]], end: float) -> str:
    """What can be had with so many parameters: it rises at each arm of the front."""
    words = f"M{places[0][0]:.1f} {places[0][1]:.1f}"
    for x, y in places[1:]:
        words += f"H{x:.1f}V{y:.1f}"
    return f"{words}H{end:.1f}"


def learning(task: str, key: str, curves: Sequence[Curve], looks: Looks) -> Markup:
    """A loss by step: means over seeds, and bands from the lowest seed to the highest."""
    values = [value for curve in curves for value in (*curve.low, *curve.high)]
    log = min(values) > 0 and max(values) > 4 * min(values)
    x = scale([step for curve in curves for step in (curve.steps[0], curve.steps[-1])], 46, WIDTH - 12, room=0.0)
    y = scale(values, HEIGHT - 40, 24, log=log)
    kind = "eval loss" if key == "eval_loss" else "training loss"
    above = f"{kind} (nats/token{', logarithmic' if log else ''})"
    name = (lambda value: f"{value:g}") if log else plain_number(y.ticks())
    parts: list[object] = [grid(x, y, lambda step: f"{step:g}", name), titles(above, "step", x, HEIGHT - 6)]
    for curve in curves:
        style = colour(looks, curve.arm)
        places = [x(step) for step in curve.steps]
        if curve.seeds > 1:
            edge = [*zip(places, map(y, curve.high), strict=True)]
            edge += [*zip(reversed(places), map(y, reversed(curve.low)), strict=True)]
            parts.append(element("path", class_=f"band {style}", d=line_through(edge) + "Z", data_arm=looks[curve.arm]))
    for curve in curves:
        line = line_through([*zip(map(x, curve.steps), map(y, curve.mean), strict=True)])
        tip = (
            f"{curve.arm}: {curve.mean[0]:.3g} at step {curve.steps[0]}, {curve.mean[-1]:.3g} at step {curve.steps[-1]}"
        )
        parts.append(
            element(
                "path", element("title", f"{tip}; {curve.seeds} seeds"), class_=f"line {colour(looks, curve.arm)}",
                d=line, stroke_dasharray=dashes(looks, curve.arm), data_arm=looks[curve.arm],
            )
        )  # fmt: skip
    return svg(WIDTH, HEIGHT, f"{task}: {kind} by step, a curve for each arm", *parts)


def line_through(places: Sequence[tuple[float, float]]) -> str:
    """A path's words."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def trade(task: Task, pairs: Sequence[tuple[Spot, Spot]], quantity: Quantity, looks: Looks) -> Markup:
    """What was learned against what was forgotten: each arm's decisive metric and its KL from the base."""
    x = scale([one for lost, _ in pairs for one in (lost.value, lost.low, lost.high)], 46, WIDTH - 12, zero=True)
    y = scale([one for _, won in pairs for one in (won.value, won.low, won.high)], HEIGHT - 40, 24)
    parts: list[object] = [
        grid(x, y, plain_number(x.ticks()), names_of(y, quantity)),
        titles(
            axis_title(task.metric, quantity, task.better), "forgetting_kl (nats/token, lower is better)", x, HEIGHT - 6
        ),
    ]
    spots = []
    for lost, won in pairs:
        place = x(lost.value), y(won.value)
        parts.append(_post(looks, won.arm, place[0], y, won.low, won.high))
        parts.append(bar(looks, won.arm, x, place[1], lost.low, lost.high))
        tip = f"{won.arm}: {minus(quantity.value(won.value))}, forgetting_kl {lost.value:.3g}"
        parts.append(mark(looks, won.arm, *place, tip))
        spots.append((*place, won.arm))
    label = f"{task.name}: {task.metric} against forgetting"
    return svg(WIDTH, HEIGHT, label, *parts, *label_places(spots, x.start, WIDTH - 2, 20, HEIGHT - 40))
