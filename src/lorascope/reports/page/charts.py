"""The charts of a study's page, as Vega-Lite specifications.

Every chart follows one parameter, `hidden`: the arms that the page's legends have switched off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lorascope.formats import Quantity
from lorascope.reports.page.values import Dot, Looks, RankMap, Spot, span, stretches
from lorascope.reports.seed_groups import Curve, Tried

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
SIZE: Spec = {
    "title": "trainable parameters", "scale": {"type": "log", "padding": 24, "nice": False},
    "axis": {"labelExpr": "replace(replace(format(datum.value, '.3~s'), 'G', 'B'), 'k', 'K')"},
}  # fmt: skip
FORGETTING: Spec = {"title": "forgetting_kl (nats/token, lower is better)", "scale": {"zero": True, "padding": 8}}


def intervals(
    spots: Sequence[Spot], dots: Sequence[Dot], quantity: Quantity, looks: Looks, *, base: float | None = None,
    margin: float | None = None,
) -> Spec:  # fmt: skip
    """A row for each arm: its value with its interval, and its seeds below.

    Args:
        spots: the values.
        dots: the seeds.
        quantity: how the axis reads.
        looks: of the arms.
        base: the base model's value, a dashed line.
        margin: of differences; it is shaded around zero.
    """
    axis = {"title": None, "domain": False, "ticks": False, "grid": True, "labelColor": "var(--ink)", "labelPadding": 6}
    x, y = number(quantity), {"field": "arm", "type": "nominal", "axis": axis}
    y["scale"] = {"type": "band", "domain": [spot.arm for spot in spots]}  # a row stays where it is
    layers = [_bars(looks, x, y), *_points(looks, x, y, {"yOffset": 8})]
    if base is not None:
        layers.insert(0, _rule(base, f"base model\n{base!r}"))
    if margin is not None:
        shade = {"type": "rect", "color": "var(--soft)", "opacity": 0.16, "aria": False}
        width = {"x": x | {"field": "from"}, "x2": {"field": "to"}}
        zero = {"data": {"values": [{}]}, "mark": {"type": "rule", "aria": False}, "encoding": {"x": {"datum": 0}}}
        layers = [
            {"data": {"values": [{"from": -margin, "to": margin}]}, "mark": shade, "encoding": width},
            zero,
            *layers,
        ]
    return _chart(layers, 30 * len(spots), spots, dots)


def scatter(
    spots: Sequence[Spot], dots: Sequence[Dot], x: Spec, quantity: Quantity, looks: Looks, *,
    front: Sequence[Spot] = (),
) -> Spec:  # fmt: skip
    """Values against something else, with both intervals; the front, where there is one, as a line.

    Args:
        spots: the arms, with their places on x.
        dots: the seeds, with theirs.
        x: the other axis: SIZE or FORGETTING.
        quantity: how the values read.
        looks: of the arms.
        front: the arms on the front, from left to right.
    """
    x, y = x | {"field": "x", "type": "quantitative"}, number(quantity)
    layers = [
        _bars(looks, y, x, "y"),
        _bars(looks, x, y, "x", "x_"),
        *_points(looks, x, y, {"xOffset": 9 if front else 0}),
    ]
    if front:
        end = {"x": max(spot.x or 0 for spot in spots), "value": front[-1].value}
        places = [*({"x": spot.x, "value": spot.value} for spot in front), end]
        mark = {"type": "line", "interpolate": "step-after", "color": "var(--soft)", "strokeWidth": 1.3, "aria": False}
        drawn = {"x": x, "y": y, "order": {"field": "x"}}
        layers.insert(0, {"data": {"values": places}, "mark": mark, "encoding": drawn})
    return _chart(layers, 240, spots, dots)


def learning(kind: str, curves: Sequence[Curve], looks: Looks) -> Spec:
    """A loss by step: means over seeds, and bands from the lowest seed to the highest."""
    rows: list[Spec] = [
        {"arm": one.arm, "seeds": one.seeds, "step": step, "mean": mean, "low": low, "high": high}
        for one in curves
        for step, mean, low, high in zip(one.steps, one.mean, one.low, one.high, strict=True)
    ]
    lows = [row["low"] for row in rows]
    log = _far(lows, [row["high"] for row in rows])
    x = {"field": "step", "type": "quantitative", "scale": {"zero": False, "nice": False}}
    scale = _scale(log) | {"nice": not log, "padding": 4}
    y = {"type": "quantitative", "title": None, "scale": scale}
    color, dash = _by_arm("color", looks), _by_arm("strokeDash", looks)
    at = {"name": "at", "select": {"type": "point", "on": "pointerover", "clear": "pointerout"}}
    told = {"arm": "arm", "step": "step", "mean": kind, "low": "lowest seed", "high": "highest seed", "seeds": "seeds"}
    tips = [{"field": field, "type": "nominal", "title": title} for field, title in told.items()]
    seen = {"condition": {"param": "at", "empty": False, "value": 1}, "value": 0}
    band = {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}, "color": color}
    line = {"x": x, "y": y | {"field": "mean"}, "color": color}
    point = line | {"opacity": seen, "tooltip": tips, "shape": _by_arm("shape", looks)}
    layers = [
        _layer({"type": "area", "opacity": 0.18, "aria": False}, band),
        _layer({"type": "line", "strokeWidth": 1.9, "aria": False}, line | {"strokeDash": dash}),
        _layer({"type": "point", "filled": True, "size": 90, "aria": False}, point) | {"params": [at]},
    ]
    return _chart(layers, 240, rows)


def path(kind: str, learned: Sequence[Curve], forgotten: Sequence[Curve], looks: Looks) -> Spec:
    """What is learned against what is forgotten, from step to step: means over seeds, the last step marked."""
    lost = {one.arm: dict(zip(one.steps, one.mean, strict=True)) for one in forgotten}
    rows: list[Spec] = []
    for one in learned:
        shared = [place for place in zip(one.steps, one.mean, strict=True) if place[0] in lost.get(one.arm, {})]
        rows += [
            {"arm": one.arm, "step": step, "mean": mean, "lost": lost[one.arm][step], "last": step == shared[-1][0]}
            for step, mean in shared
        ]
    x = {"field": "lost", "type": "quantitative"} | FORGETTING
    y = {"field": "mean", "type": "quantitative", "title": None, "scale": {"zero": False, "padding": 8}}
    told = {"arm": "arm", "step": "step", "mean": kind, "lost": "forgetting_kl"}
    tips = [{"field": field, "type": "nominal", "title": title} for field, title in told.items()]
    place = {"x": x, "y": y, "color": _by_arm("color", looks)}
    order = {"order": {"field": "step", "type": "quantitative"}, "strokeDash": _by_arm("strokeDash", looks)}
    size = {"condition": {"test": "datum.last", "value": 75}, "value": 18}
    shape = {"shape": _by_arm("shape", looks), "size": size, "tooltip": tips}
    layers = [
        _layer({"type": "line", "strokeWidth": 1.5, "aria": False}, place | order),
        _layer({"type": "point", "filled": True, "aria": False}, place | shape),
    ]
    return _chart(layers, 240, rows)


def rates(own: Sequence[Tried], every: Sequence[Tried], chosen: float | None, looks: Looks) -> Spec:
    """An arm's eval loss by learning rate, a line for each rung; the axes are those of all arms of the task."""
    known = [one for one in own if one.loss is not None]
    last = max(one.rung for one in known)
    rows = []
    for one in known:
        told = f"learning rate {one.rate!r}\neval loss {one.loss!r}\nafter {one.steps:.0%} of the steps"
        row = {"arm": one.arm, "rung": one.rung, "rate": one.rate, "loss": one.loss, "tip": f"{one.arm}\n{told}"}
        rows.append(row | {"fade": (1, 0.6, 0.35)[min(last - one.rung, 2)]})
    losses, tried = [one.loss for one in every if one.loss is not None], sorted({one.rate for one in every})
    inside = {"nice": False, "padding": 12}
    x: Spec = {"field": "rate", "type": "quantitative", "title": "learning rate"}
    x |= {"axis": {"format": "~g", "values": tried}, "scale": inside | {"type": "log", "domain": [tried[0], tried[-1]]}}
    scale = inside | _scale(_far(losses, losses)) | {"domain": [min(losses), max(losses)]}
    y = {"field": "loss", "type": "quantitative", "title": None, "scale": scale}
    fade = {"field": "fade", "type": "quantitative", "scale": None, "legend": None}
    drawn = {"x": x, "y": y, "color": _by_arm("color", looks), "opacity": fade}
    layers = [
        _layer({"type": "line", "aria": False}, drawn | {"detail": {"field": "rung"}}),
        _layer({"type": "point", "filled": True, "size": 50}, drawn | {"shape": _by_arm("shape", looks)} | _tip()),
    ]
    if chosen is not None:
        layers.insert(0, _rule(chosen, f"chosen\n{chosen!r}"))
    return _chart(layers, 130, rows)


def plan(one: RankMap, every: Sequence[RankMap]) -> Spec:
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
    above = {"orient": "top", "labelAngle": 0, "title": None, "domain": False, "ticks": False, "labelOverlap": False}
    above |= {"labelFontSize": 10, "labelLimit": 40}
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
    label = f"format(datum.value * {100 if quantity.share else 1}, '~g')"
    scale = {"zero": False, "padding": 8}
    return {"field": "value", "type": "quantitative", "title": None, "axis": {"labelExpr": label}, "scale": scale}


def _far(lows: Sequence[float], highs: Sequence[float]) -> bool:
    """Whether values need a logarithmic axis."""
    return min(lows) > 0 and max(highs) > 4 * min(lows)


def _scale(log: bool) -> Spec:
    return {"type": "log"} if log else {"zero": False}


def _chart(layers: Sequence[Spec], height: float, arms: Sequence[Any], seeds: Sequence[Dot] = ()) -> Spec:
    """Layers over two tables of rows; fields that are not known are left out."""
    tables = {"arms": list(map(_row, arms)), "seeds": list(map(_row, seeds))}
    hidden = {"name": "hidden", "value": []}
    return {"width": "container", "height": height, "params": [hidden], "datasets": tables, "layer": list(layers)}


def _row(one: Any) -> Spec:
    row = one if isinstance(one, dict) else asdict(one)
    return {key: value for key, value in row.items() if value is not None}


def _layer(mark: Spec, encoding: Spec, *transform: Spec, data: str = "arms") -> Spec:
    """Marks of arms; those of arms that are switched off are left out."""
    steps = [{"filter": "indexof(hidden, datum.arm) < 0"}, *transform]
    return {"data": {"name": data}, "transform": steps, "mark": mark, "encoding": encoding}


def _rule(value: float, tip: str) -> Spec:
    mark = {"type": "rule", "strokeDash": [4, 3], "strokeWidth": 1.4, "tooltip": tip, "description": tip}
    return {"data": {"values": [{}]}, "mark": mark, "encoding": {"x": {"datum": value}}}


def _bars(looks: Looks, value: Spec, other: Spec, along: str = "x", of: str = "") -> Spec:
    """The intervals of the arms that have one."""
    low, high, across = f"{of}low", f"{of}high", "y" if along == "x" else "x"
    ends = {along: value | {"field": low}, f"{along}2": {"field": high}, across: other}
    mark = {"type": "rule", "strokeWidth": 2, "strokeCap": "round", "aria": False}
    known = {"filter": f"isValid(datum.{low}) && isValid(datum.{high})"}
    return _layer(mark, ends | {"color": _by_arm("color", looks)}, known)


def _points(looks: Looks, x: Spec, y: Spec, aside: Spec) -> list[Spec]:
    """Each arm's mark, and its seeds beside it, which lead to their runs."""
    color, place = _by_arm("color", looks), {"x": x, "y": y} | _tip()
    told = {"as": "tip", "calculate": "datum.arm + '\\nseed ' + datum.seed + ': ' + datum.value + datum.more"}
    hollow = {"condition": {"test": "datum.hollow", "value": "var(--under)"}} | color
    whole = {"type": "point", "size": 75, "strokeWidth": 1.7, "filled": False, "opacity": 1}
    small = {"type": "point", "filled": True, "shape": "circle", "size": 26, "opacity": 0.6, "cursor": "pointer"}
    return [
        _layer(small | aside, place | {"color": color, "href": {"field": "href"}}, told, data="seeds"),
        _layer(whole, place | {"stroke": color, "fill": hollow, "shape": _by_arm("shape", looks)}),
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
