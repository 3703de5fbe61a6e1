"""How each arm looks in every chart: colour, shape and dashes by its place in the study, and the legend of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lorascope.studies.page.axes import BOLD, shortened, width
from lorascope.studies.page.markup import Markup, element
from lorascope.studies.study import Study

COLOURS = 7  # besides the reference's
# around (0, 0), of about the same area
SHAPES = (
    "M4.6 0A4.6 4.6 0 1 1 -4.6 0A4.6 4.6 0 1 1 4.6 0Z",
    "M-4.1 -4.1H4.1V4.1H-4.1Z",
    "M0 -5.4L5 3.9H-5Z",
    "M0 -5.8L5.4 0L0 5.8L-5.4 0Z",
    "M0 5.4L5 -3.9H-5Z",
    "M-1.8 -5.2H1.8V-1.8H5.2V1.8H1.8V5.2H-1.8V1.8H-5.2V-1.8H-1.8Z",
    "M0 -5.4L5.2 -1.6L3.2 4.5H-3.2L-5.2 -1.6Z",
)
DASHES = (None, "7 3", "2 3", "9 3 2 3", "12 4", "4 2")

Looks = Mapping[str, int]  # arm -> its place


def looks_of(study: Study) -> Looks:
    """The reference comes first, so that it has one look in every study."""
    others = [arm.name for arm in study.arms if arm.name != study.reference]
    return {name: index for index, name in enumerate([study.reference, *others])}


def colour(looks: Looks, arm: str) -> str:
    """The class that gives an arm's marks its colour."""
    return f"c{1 + (looks[arm] - 1) % COLOURS}" if looks[arm] else "c0"


def dashes(looks: Looks, arm: str) -> str | None:
    """The dashes of an arm's lines."""
    return DASHES[looks[arm] % len(DASHES)]


def mark(looks: Looks, arm: str, x: float, y: float, tip: str = "", kind: str = "") -> Markup:
    """An arm's point; `tip` is said where a pointer rests on it."""
    title = element("title", tip) if tip else None
    return element(
        "path", title, d=SHAPES[looks[arm] % len(SHAPES)], transform=f"translate({x:.1f} {y:.1f})",
        class_=f"mark {colour(looks, arm)} {kind}".strip(), data_arm=looks[arm],
    )  # fmt: skip


def legend(looks: Looks, arms: Sequence[str], reference: str) -> Markup:
    """The arms with their marks; pointing at one brings it out in the charts of its section."""
    items = []
    for arm in arms:
        line = element(
            "line", x1=1, x2=27, y1=8, y2=8, class_=f"line {colour(looks, arm)}", stroke_dasharray=dashes(looks, arm)
        )
        picture = element("svg", line, mark(looks, arm, 14, 8), viewBox="0 0 28 16", aria_hidden="true")
        name = f"{arm} (reference)" if arm == reference else arm
        items.append(element("li", element("button", picture, name, type="button", data_arm=looks[arm])))
    return element("ul", *items, class_="legend", aria_label="arms")


def label_places(
    points: Sequence[tuple[float, float, str]], left: float, right: float, top: float, bottom: float
) -> list[Markup]:
    """Names beside points, each where it covers no other name or point; without such a place, none."""
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y, _ in points]
    made = []
    for x, y, name in points:
        shown = shortened(name, 120, BOLD)
        wide = width(shown, BOLD)
        for begin, middle in (
            (x + 9, y),
            (x - 9 - wide, y),
            (x - wide / 2, y - 14),
            (x - wide / 2, y + 14),
            (x + 7, y - 11),
            (x + 7, y + 11),
        ):
            box = (begin, middle - 6, begin + wide, middle + 6)
            inside = box[0] >= left and box[2] <= right and box[1] >= top and box[3] <= bottom
            if inside and not any(box[0] < c and a < box[2] and box[1] < d and b < box[3] for a, b, c, d in taken):
                taken.append(box)
                made.append(element("text", shown, class_="name", x=begin, y=middle + 3.8))
                break
    return made
