"""HTML and SVG as nested calls: texts come in as they are, escaped markup goes out.

Whatever is no `Markup` is a text and is escaped, so that a name from a user's file cannot become markup because someone
forgot it.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any

VOID = {"br", "hr", "meta", "link", "col"}


class Markup(str):
    """Markup, not text: it is not escaped again."""

    __slots__ = ()


def text(value: object) -> Markup:
    """A text as markup."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Texts and markup one after the other; None is left out."""
    return Markup(text(between).join(text(part) for part in parts if part is not None))


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element; None among children and attributes is left out.

    In attributes' names `_` stands for `-`, and one behind them for nothing: `class_`. Numbers have one decimal.
    """
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_attribute(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{words}>")
    return Markup(f"<{name}{words}>{join(children)}</{name}>")


def _attribute(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def script_json(identity: str, data: Any) -> Markup:
    """Data for scripts, and for whoever wants it out of the page: no text in it can end the element."""
    dumped = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        dumped = dumped.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(f'<script type="application/json" id="{html.escape(identity)}">{dumped}</script>')
