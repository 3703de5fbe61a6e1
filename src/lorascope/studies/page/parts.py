"""What every section is made of: titles, charts and words come in, a section or a grid of charts goes out."""

from __future__ import annotations

from collections.abc import Sequence

from lorascope.studies.page.markup import Markup, element


def section(identity: str, title: str, *parts: object, lead: str = "") -> Markup:
    """A section with its heading."""
    intro = element("p", lead, class_="lead") if lead else None
    return element("section", element("h2", title), intro, *parts, id=identity, aria_label=title)


def figures(drawn: Sequence[tuple[object, Markup]], kind: str = "") -> Markup:
    """Charts side by side, as many as there is room for, each under its name."""
    made = [element("figure", element("figcaption", name), picture) for name, picture in drawn]
    return element("div", *made, class_=f"figures {kind or even(len(made))}".strip())


def even(number: int) -> str:
    """The class of a grid of so many: two or four stand in twos, so that none stands alone."""
    return "even" if number in (2, 4) else ""
