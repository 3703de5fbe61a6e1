"""The charts of a study's page, as Vega-Lite specifications.

Every chart follows one parameter, `hidden`: the arms that the page's legends have switched off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lorascope.studies.curves import Curve
from lorascope.studies.page.values import Coverage, Dot, Looks, Spot, span, stretches
from lorascope.studies.pilot import Tried
from lorascope.studies.quantity import Quantity

Spec = dict[str, Any]
ROLES = ("q", "k", "v", "o", "gate", "up", "down")  # in a block's order; others come behind them
TALLEST, READABLE = 240.0, 12.0  # pixels: of a plan's layers, and of a block that has room for its rank
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
DASHES = ([1, 0], [7, 3], [2, 3], [9, 3, 2, 3], [12, 4])
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif'
CONFIG: Spec = {
    "background": "transparent",
    "font": FONT,
    "autosize": {"type": "fit-x", "contains": "padding"},
    "padding": 4,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--soft)", "titleColor": "var(--soft)", "titleFontWeight": "normal", "labelFontSize": 11,
        "titleFontSize": 11, "gridColor": "var(--grid)", "domainColor": "var(--soft)", "tickColor": "var(--soft)",
        "labelOverlap": "greedy", "labelSeparation": 6, "tickCount": 5, "labelLimit": 110,
    },
    "axisX": {"grid": False},
    "axisY": {"domain": False, "ticks": False},
    "text": {"color": "var(--ink)", "fontSize": 11},
    "rule": {"color": "var(--soft)"},
}  # fmt: skip


def differences(spots: Sequence[Spot], dots: Sequence[Dot], margin: float, quantity: Quantity, looks: Looks) -> Spec:
    """Each arm's difference to the reference with its interval, its seeds' differences, zero and the margin."""
    rows = [asdict(spot) | {"said": spot.tip.split("\n")[1]} for spot in spots]
    x, y = number(quantity), _rows([spot.arm for spot in spots], axis=None)
    named = {"arm": ("left", 0, "bold", "max(60, width - 215)"), "said": ("right", {"expr": "width"}, "normal", "210")}
    layers = [
        {
            "data": {"values": [{"from": -margin, "to": margin}]},
            "mark": {"type": "rect", "color": "var(--soft)", "opacity": 0.16, "aria": False},
            "encoding": {"x": x | {"field": "from"}, "x2": {"field": "to"}},
        },
        {"data": {"values": [{}]}, "mark": {"type": "rule", "aria": False}, "encoding": {"x": {"datum": 0}}},
        _bars(rows, looks, x, y),
        *_points(rows, dots, looks, x, y, aside={"yOffset": 11}),
    ]
    for field, (align, place, weight, limit) in named.items():
        mark = {
            "type": "text", "align": align, "x": place, "yOffset": -14, "fontWeight": weight, "aria": False,
            "limit": {"expr": limit},
        }  # fmt: skip
        layers.append(_layer(rows, mark, {"y": y, "text": {"field": field}}))
    return _chart(layers, 44 * len(spots))


def panel(spots: Sequence[Spot], dots: Sequence[Dot], base: float | None, quantity: Quantity, looks: Looks) -> Spec:
    """A metric with a row for each arm; the base model's value is a dashed line unless it lies far away."""
    rows = [asdict(spot) for spot in spots]
    axis = {"title": None, "domain": False, "ticks": False, "grid": True, "labelColor": "var(--ink)", "labelPadding": 6}
    x, y = number(quantity), _rows([spot.arm for spot in spots], axis=axis)
    layers = [_bars(rows, looks, x, y), *_points(rows, dots, looks, x, y, aside={"yOffset": 8})]
    if base is not None:
        layers.insert(0, _rule("x", base, f"base model\n{base!r}"))
    return _chart(layers, 30 * len(spots))


def fronts(
    spots: Sequence[Spot], dots: Sequence[Dot], sizes: Mapping[str, int], best: Sequence[str], quantity: Quantity,
    looks: Looks,
) -> Spec:  # fmt: skip
    """Quality against trainable parameters, with the front as a line; arms beyond it are hollow.

    Args:
        spots: a value for each arm.
        dots: its seeds.
        sizes: each arm's number of trainable parameters.
        best: the arms of the front, smallest first.
        quantity: of the values.
        looks: of the arms.
    """
    values = {spot.arm: spot.value for spot in spots}
    end = {"size": max(sizes.values()), "value": values[best[-1]]}
    line = [{"size": sizes[arm], "value": values[arm]} for arm in best] + [end]
    rows = [asdict(spot) | {"size": sizes[spot.arm], "best": spot.arm in best} for spot in spots]
    label = "replace(format(datum.value, '.3~s'), 'G', 'B')"
    x = {
        "field": "size", "type": "quantitative", "title": "trainable parameters",
        "scale": {"type": "log", "padding": 24, "nice": False}, "axis": {"labelExpr": label},
    }  # fmt: skip
    y = number(quantity) | {"axis": {"labelExpr": _label(quantity)}}
    mark = {"type": "line", "interpolate": "step-after", "color": "var(--soft)", "strokeWidth": 1.3, "aria": False}
    layers = [
        {"data": {"values": line}, "mark": mark, "encoding": {"x": x, "y": y, "order": {"field": "size"}}},
        _bars(rows, looks, y, x, vertical=True),
        *_points(rows, dots, looks, x, y, aside={"xOffset": 9}, more=sizes),
    ]
    return _chart(layers, 240)


def trade(lost: Sequence[Spot], won: Sequence[Spot], dots: Sequence[Any], quantity: Quantity, looks: Looks) -> Spec:
    """What was learned against what was forgotten, with both intervals; `dots` are rows of their own."""
    pairs = zip(lost, won, strict=True)
    rows = [asdict(good) | {"lost": bad.value, "from": bad.low, "to": bad.high} for bad, good in pairs]
    x = number(Quantity("", 3)) | {"field": "lost", "title": "forgetting_kl (nats/token, lower is better)"}
    x["scale"] = {"zero": True}
    y = number(quantity) | {"axis": {"labelExpr": _label(quantity)}}
    layers = [
        _bars(rows, looks, y, x, vertical=True),
        _bars(rows, looks, x, y, ends=("from", "to")),
        *_points(rows, dots, looks, x, y, aside={}),
    ]
    return _chart(layers, 240)


def learning(kind: str, curves: Sequence[Curve], looks: Looks) -> Spec:
    """A loss by step: means over seeds, and bands from the lowest seed to the highest."""
    rows = [
        {"arm": one.arm, "seeds": one.seeds, "step": step, "mean": mean, "low": low, "high": high}
        for one in curves
        for step, mean, low, high in zip(one.steps, one.mean, one.low, one.high, strict=True)
    ]
    lows = [row["low"] for row in rows]
    log = _far(lows, [row["high"] for row in rows])
    x = {"field": "step", "type": "quantitative", "title": "step", "scale": {"zero": False, "nice": False}}
    y = {"type": "quantitative", "title": None, "scale": {"zero": False, "type": "log" if log else "linear"}}
    color, dash = _by_arm("color", looks), _by_arm("strokeDash", looks)
    at = {"name": "at", "select": {"type": "point", "on": "pointermove", "clear": "pointerout", "nearest": True}}
    told = {"arm": "arm", "step": "step", "mean": kind, "low": "lowest seed", "high": "highest seed", "seeds": "seeds"}
    tips = [{"field": field, "type": "nominal", "title": title} for field, title in told.items()]
    seen = {"condition": {"param": "at", "empty": False, "value": 1}, "value": 0}
    band = {"y": y | {"field": "low"}, "y2": {"field": "high"}}
    point = {"type": "point", "filled": True, "size": 60, "aria": False}
    line = {"x": x, "y": y | {"field": "mean"}, "color": color}
    layers = [
        _layer(rows, {"type": "area", "opacity": 0.18, "aria": False}, {"x": x, "color": color} | band),
        _layer(rows, {"type": "line", "strokeWidth": 1.9, "aria": False}, line | {"strokeDash": dash}),
        _layer(rows, point, line | {"opacity": seen, "tooltip": tips, "shape": _by_arm("shape", looks)})
        | {"params": [at]},
    ]
    return _chart(layers, 240)


def rates(own: Sequence[Tried], every: Sequence[Tried], chosen: float | None, looks: Looks) -> Spec:
    """An arm's eval loss by learning rate, a line for each rung; the axes are those of all arms of the task."""
    known = [one for one in own if one.loss is not None]
    last = max(one.rung for one in known)
    rows = [
        {
            "arm": one.arm, "rung": one.rung, "rate": one.rate, "loss": one.loss, "fade": (1, 0.6, 0.35)[min(last - one.rung, 2)],
            "tip": f"{one.arm}\nlearning rate {one.rate!r}\neval loss {one.loss!r}\nafter {one.steps:.0%} of the steps",
        }
        for one in known
    ]  # fmt: skip
    losses = [one.loss for one in every if one.loss is not None]
    span = [min(one.rate for one in every), max(one.rate for one in every)]
    kind = "log" if _far(losses, losses) else "linear"
    x = {
        "field": "rate", "type": "quantitative", "title": "learning rate",
        "scale": {"type": "log", "domain": span, "nice": False, "padding": 12}, "axis": {"format": "~g", "tickCount": 3},
    }  # fmt: skip
    scale = {"zero": False, "type": kind, "domain": [min(losses), max(losses)], "padding": 12, "nice": False}
    y = {"field": "loss", "type": "quantitative", "title": None, "scale": scale}
    fade = {"field": "fade", "type": "quantitative", "scale": None, "legend": None}
    drawn = {"x": x, "y": y, "color": _by_arm("color", looks), "opacity": fade}
    point = {"type": "point", "filled": True, "size": 50}
    layers = [
        _layer(rows, {"type": "line", "aria": False}, drawn | {"detail": {"field": "rung"}}),
        _layer(rows, point, drawn | {"shape": _by_arm("shape", looks)} | _tip()),
    ]
    if chosen is not None:
        layers.insert(0, _rule("x", chosen, f"chosen\n{chosen!r}"))
    return _chart(layers, 130)


def plan(one: Coverage, every: Sequence[Coverage]) -> Spec:
    """Layers from the top, roles from left to right; the higher the rank, the stronger the color."""
    found = {role for each in every for _, role in each.ranks}
    roles = [role for role in ROLES if role in found] + sorted(found - set(ROLES))
    layers = 1 + max((layer for each in every for layer, _ in each.ranks), default=0)
    highest = max((_highest(rank) for each in every for rank in each.ranks.values()), default=1)
    step = min(TALLEST / layers, 20.0)
    blocks = [
        {
            "role": role, "from": first, "to": last + 1, "middle": (first + last + 1) / 2, "rank": rank,
            "strength": 0.2 + 0.5 * _highest(rank) / highest, "roomy": step * (last - first + 1) >= READABLE,
            "tip": f"{role}\nlayer{'' if first == last else 's'} {span(first, last)}\nrank {rank}",
        }
        for role in roles
        for first, last, rank in stretches(one.ranks, role, layers)
    ]  # fmt: skip
    above = {"orient": "top", "labelAngle": 0, "title": None, "domain": False, "ticks": False}
    x = {"field": "role", "type": "nominal", "scale": {"domain": roles, "paddingInner": 0.08}, "axis": above}
    beside = {"values": sorted({0, layers - 1}), "grid": False, "labelExpr": "datum.value", "labelBaseline": "top"}
    scale = {"domain": [0, layers], "reverse": True, "nice": False}
    y = {"field": "from", "type": "quantitative", "title": None, "scale": scale, "axis": beside}
    tip = {key: {"field": "tip", "type": "nominal"} for key in ("tooltip", "description")}
    strength = {"field": "strength", "type": "quantitative", "scale": None, "legend": None}
    empty = {"type": "rect", "color": "var(--grid)", "opacity": 0.55, "aria": False}
    block = {"type": "rect", "color": "var(--c1)", "stroke": "var(--paper)", "strokeWidth": 1}
    text = {"x": x, "y": y | {"field": "middle"}, "text": {"field": "rank"}}
    roomy = [{"filter": "datum.roomy"}]
    return {
        "width": "container", "height": round(step * layers),
        "layer": [
            {"data": {"values": [{"role": role, "from": 0, "to": layers} for role in roles]}, "mark": empty,
             "encoding": {"x": x, "y": y, "y2": {"field": "to"}}},
            {"data": {"values": blocks}, "mark": block,
             "encoding": {"x": x, "y": y, "y2": {"field": "to"}, "opacity": strength} | tip},
            {"data": {"values": blocks}, "transform": roomy, "encoding": text,
             "mark": {"type": "text", "fontWeight": "bold", "aria": False}},
        ],
    }  # fmt: skip


def _highest(rank: str) -> int:
    return max(int(rank.partition("/")[0]), 1)


def number(quantity: Quantity) -> Spec:
    """The encoding of a value on an axis; shares are shown in percent."""
    axis = {"labelExpr": _label(quantity)}
    return {
        "field": "value", "type": "quantitative", "title": None, "axis": axis, "scale": {"zero": False, "padding": 8}
    }  # fmt: skip


def _label(quantity: Quantity) -> str:
    return f"format(datum.value * {100 if quantity.share else 1}, '~g')"


def _far(lows: Sequence[float], highs: Sequence[float]) -> bool:
    """Whether values need a logarithmic axis."""
    return min(lows) > 0 and max(highs) > 4 * min(lows)


def _chart(layers: Sequence[Spec], height: float) -> Spec:
    return {
        "width": "container",
        "height": height,
        "params": [{"name": "hidden", "value": []}],
        "layer": list(layers),
    }


def _layer(rows: Sequence[Any], mark: Spec, encoding: Spec) -> Spec:
    """Marks of arms; those of arms that are switched off are left out."""
    shown = [{"filter": "indexof(hidden, datum.arm) < 0"}]
    return {"data": {"values": list(rows)}, "transform": shown, "mark": mark, "encoding": encoding}


def _rule(channel: str, value: float, tip: str) -> Spec:
    mark = {"type": "rule", "strokeDash": [4, 3], "strokeWidth": 1.4, "tooltip": tip, "description": tip}
    return {"data": {"values": [{}]}, "mark": mark, "encoding": {channel: {"datum": value}}}


def _rows(arms: Sequence[str], axis: Spec | None) -> Spec:
    """A row for each arm; it stays in its place when others are switched off."""
    scale = {"type": "band", "domain": list(arms)}
    return {"field": "arm", "type": "nominal", "title": None, "scale": scale, "axis": axis}


def _bars(
    rows: Sequence[Any], looks: Looks, value: Spec, other: Spec, vertical: bool = False,
    ends: tuple[str, str] = ("low", "high"),
) -> Spec:  # fmt: skip
    """The intervals along the axis of `value`."""
    main, second = ("y", "x") if vertical else ("x", "y")
    known = [row for row in rows if row[ends[0]] is not None and row[ends[1]] is not None]
    encoding = {main: value | {"field": ends[0]}, f"{main}2": {"field": ends[1]}, second: other}
    mark = {"type": "rule", "strokeWidth": 2, "strokeCap": "round", "aria": False}
    return _layer(known, mark, encoding | {"color": _by_arm("color", looks)})


def _points(
    rows: Sequence[Any], dots: Sequence[Any], looks: Looks, x: Spec, y: Spec, *, aside: Spec,
    more: Mapping[str, int] | None = None,
) -> list[Spec]:  # fmt: skip
    """Each arm's mark, and its seeds beside it, which lead to their runs."""
    color, place = _by_arm("color", looks), {"x": x, "y": y}
    seeds = [asdict(dot) if isinstance(dot, Dot) else dot for dot in dots]
    seeds = [row | {"size": more[row["arm"]]} for row in seeds] if more else seeds
    hollow = {"condition": {"test": "datum.best === false", "value": "var(--under)"}} | color
    whole = {"type": "point", "size": 75, "strokeWidth": 1.7, "filled": False, "opacity": 1}
    small = {"type": "point", "filled": True, "shape": "circle", "size": 26, "opacity": 0.6, "cursor": "pointer"}
    return [
        _layer(seeds, small | aside, place | {"color": color, "href": {"field": "href"}} | _tip()),
        _layer(rows, whole, place | {"stroke": color, "fill": hollow, "shape": _by_arm("shape", looks)} | _tip()),
    ]


def _tip() -> Spec:
    return {key: {"field": "tip", "type": "nominal"} for key in ("tooltip", "description")}


def _by_arm(channel: str, looks: Looks) -> Spec:
    """An arm's color, shape or dashes."""
    ranges: dict[str, list[Any]] = {
        "color": [f"var(--c{look.color})" for look in looks.values()],
        "shape": [SHAPES[look.shape] for look in looks.values()],
        "strokeDash": [DASHES[look.dash] for look in looks.values()],
    }
    scale = {"domain": list(looks), "range": ranges[channel]}
    return {"field": "arm", "type": "nominal", "legend": None, "scale": scale}
