"""Where each arm's adapter sits: the modules of its plan come in, a picture of layers by roles with ranks goes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorascope.records.record import RunRecord
from lorascope.studies.page.axes import shortened, svg
from lorascope.studies.page.markup import Markup, element
from lorascope.studies.study import FINAL, Study
from lorascope.wording import count

ROLES = ("q", "k", "v", "o", "gate", "up", "down")  # in a block's order; others come behind them
LEFT, TOP, WIDE, MOST = 26.0, 18.0, 32.0, 240.0  # of the picture, in pixels; MOST is the height of all layers
READABLE = 11.0  # a block this high has room for its rank


@dataclass(frozen=True)
class Coverage:
    """A plan as ranks: (layer, role) -> the ranks there, and the modules that are in no layer."""

    arm: str
    tasks: tuple[str, ...]  # where it is this one; empty for all
    ranks: Mapping[tuple[int, str], str]
    besides: tuple[str, ...]
    parameters: int


def coverages(study: Study, records: Mapping[str, RunRecord]) -> list[Coverage]:
    """Each arm's plan; more than one where it differs between tasks, which a plan made by data may."""
    found: dict[tuple[str, str, tuple[str, ...]], Coverage] = {}
    tasks: dict[tuple[str, str, tuple[str, ...]], dict[str, None]] = {}
    order = [arm.name for arm in study.arms]
    runs = sorted(
        (run for run in study.runs if run.arm in order), key=lambda run: (order.index(run.arm), run.stage != FINAL)
    )
    seen = set()
    for run in runs:
        plan = records[run.name].plan if run.name in records else {}
        if not plan.get("modules") or (run.arm, run.task) in seen:
            continue
        seen.add((run.arm, run.task))
        ranks, besides = _ranks(plan["modules"])
        key = (run.arm, str(sorted(ranks.items())), besides)
        tasks.setdefault(key, {})[run.task] = None
        found.setdefault(key, Coverage(run.arm, (), ranks, besides, plan.get("trainable_parameters", 0)))
    several = {arm for arm in order if sum(key[0] == arm for key in found) > 1}
    return [
        Coverage(one.arm, tuple(tasks[key]) if one.arm in several else (), one.ranks, one.besides, one.parameters)
        for key, one in found.items()
    ]


def _ranks(modules: Sequence[Mapping[str, Any]]) -> tuple[dict[tuple[int, str], str], tuple[str, ...]]:
    cells: dict[tuple[int, str], set[int]] = {}
    besides: dict[str, None] = {}
    for module in modules:
        rank, layer, role = int(module.get("rank") or 0), module.get("layer"), str(module.get("role"))
        if isinstance(layer, int):
            cells.setdefault((layer, role), set()).add(rank)
        else:
            besides[f"{module.get('name')} r{rank}"] = None
    ranks = {place: "/".join(map(str, sorted(found, reverse=True))) for place, found in cells.items()}
    return ranks, tuple(besides)


def picture(one: Coverage, every: Sequence[Coverage]) -> Markup:
    """Layers from the top, roles from left to right; the higher the rank, the stronger the colour."""
    roles = _in_order({role for each in every for _, role in each.ranks})
    layers = 1 + max((layer for each in every for layer, _ in each.ranks), default=0)
    highest = max((_first(rank) for each in every for rank in each.ranks.values()), default=1)
    step = min(MOST / layers, READABLE)
    width, height = LEFT + WIDE * len(roles) + 4, TOP + step * layers + 6
    parts: list[object] = []
    for column, role in enumerate(roles):
        x = LEFT + WIDE * column
        parts.append(
            element("text", shortened(role, WIDE), class_="tick", x=x + WIDE / 2, y=TOP - 6, text_anchor="middle")
        )
        parts.append(element("rect", class_="empty", x=x + 1, y=TOP, width=WIDE - 2, height=step * layers))
        for first, last, rank in _runs(one.ranks, role, layers):
            parts += _block(role, first, last, rank, x, step, _first(rank) / highest)
    for layer in (0, layers - 1):
        parts.append(element("text", layer, class_="tick", x=LEFT - 5, y=TOP + step * layer + 9, text_anchor="end"))
    label = f"{one.arm}: " + ("; ".join(_words(one, roles, layers)) or "no module in a layer")
    return svg(width, height, label, *parts)


def _block(role: str, first: int, last: int, rank: str, x: float, step: float, strength: float) -> list[object]:
    y, high = TOP + step * first, step * (last - first + 1)
    where = f"layer {first}" if first == last else f"layers {first} to {last}"
    block = element(
        "rect", element("title", f"{role}, {where}: rank {rank}"), class_="block", x=x + 1, y=y + 0.4, width=WIDE - 2,
        height=max(high - 0.8, 0.6), style=f"--s:{0.15 + 0.4 * strength:.2f}",
    )  # fmt: skip
    if high < READABLE:
        return [block]
    named = element("text", rank, class_="rank", x=x + WIDE / 2, y=y + high / 2 + 3.8, text_anchor="middle")
    return [block, named]


def _in_order(roles: set[str]) -> list[str]:
    return [role for role in ROLES if role in roles] + sorted(roles - set(ROLES))


def _first(rank: str) -> int:
    return max(int(rank.partition("/")[0]), 1)


def _runs(ranks: Mapping[tuple[int, str], str], role: str, layers: int) -> list[tuple[int, int, str]]:
    """First layer, last layer and rank of every stretch of layers that are alike."""
    found: list[tuple[int, int, str]] = []
    for layer in range(layers):
        rank = ranks.get((layer, role))
        if rank is None:
            continue
        if found and found[-1][1] == layer - 1 and found[-1][2] == rank:
            found[-1] = (found[-1][0], layer, rank)
        else:
            found.append((layer, layer, rank))
    return found


def _words(one: Coverage, roles: Sequence[str], layers: int) -> list[str]:
    return [
        f"{role} rank {rank} in layers {first} to {last}"
        for role in roles
        for first, last, rank in _runs(one.ranks, role, layers)
    ]


def caption(one: Coverage) -> str:
    """The arm, its size, where it is this, and what else it has."""
    where = f" on {', '.join(one.tasks)}" if one.tasks else ""
    besides = f"; besides {', '.join(one.besides[:4])}" if one.besides else ""
    besides += f" and {len(one.besides) - 4} more" if len(one.besides) > 4 else ""
    return f"{one.arm}{where}: {count(one.parameters)} parameters{besides}"
