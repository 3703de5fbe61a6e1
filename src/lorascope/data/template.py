"""A question made of columns: `dataset.prompt` comes in, the text of one row goes out."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorascope.errors import ConfigError

NOT_A_NAME = re.compile(r"[.\[\]!:{}]")  # what Python's own format would follow into an object


@dataclass(frozen=True)
class Template:
    """Literal text and the columns that follow it, in turn."""

    pieces: tuple[tuple[str, str | None], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns it asks for, each once."""
        return tuple(dict.fromkeys(name for _, name in self.pieces if name is not None))

    def renamed(self, columns: Mapping[str, str]) -> Template:
        """The same, where columns have other names."""
        return Template(tuple((text, name and columns.get(name, name)) for text, name in self.pieces))

    def render(self, values: Mapping[str, Any]) -> str:
        """The text with its columns' values in their places."""
        return "".join(text + ("" if name is None else str(values[name])) for text, name in self.pieces)


def read_template(text: str) -> Template:
    """The template that a text means: {COLUMN} is replaced, {{ and }} are braces, backslash and n a new line.

    Raises:
        ConfigError: for a brace that is left open, and for what is not a plain column's name.
    """
    remedy = "A column stands in braces, {COLUMN}; a brace itself is {{ or }}."
    pieces: list[tuple[str, str | None]] = []
    try:
        # the command line has no other way to write a new line
        for literal, name, form, conversion in string.Formatter().parse(text.replace("\\n", "\n")):
            if name is not None and (not name.strip() or form or conversion or NOT_A_NAME.search(name)):
                whole = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
                raise ConfigError("dataset.prompt", f"{{{whole}}} is not the name of a column.", remedy)
            pieces.append((literal, name))
    except ValueError as error:
        raise ConfigError("dataset.prompt", f"cannot be read: {error}.", remedy) from error
    if not any(name is not None for _, name in pieces):
        raise ConfigError("dataset.prompt", "names no column, so every question would be the same.", remedy)
    return Template(tuple(pieces))
