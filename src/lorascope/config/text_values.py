"""Keep settings that are text as they are written: `no`, `1.0` and `2024_01` are names, not values of YAML or Hydra."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lorascope.config.schema import all_settings
from lorascope.errors import ConfigError

TEXT, LIST, DICT, PATHS = "text", "a list of texts", "texts by name", "a text or a list of texts"
KINDS = {str: TEXT, str | None: TEXT, list[str]: LIST, dict[str, str]: DICT}
SIMPLE = re.compile(r"""[^'"\[\]{}()\\]*""")  # no quoting and no nesting, so that a comma divides


@functools.cache
def text_settings() -> Mapping[str, str]:
    """Dotted names of the settings that hold text, and how: a text, a list of them, or a dictionary of them."""
    found = {name: KINDS[kind] for name, kind in all_settings().items() if kind in KINDS}
    return found | dict.fromkeys(("dataset.path", "dataset.eval_path"), PATHS)


@functools.cache
def text_names() -> frozenset[str]:
    """Last parts of those names, where every setting that is called so is text."""
    # a study's budget is text, a target's may be a number
    return frozenset(name.rpartition(".")[2] for name in text_settings()) - {"budget"}


def keep_text(overrides: Sequence[str], *, sweep: bool = False) -> list[str]:
    """Overrides that Hydra reads as they were written, where a setting is text.

    `dataset.prompt=Premise: {premise}` cannot be read by Hydra's grammar, and `model.revision=12345e10` would be read
    as a number. Both are put in quotes. Flags and all other settings stay as they are. With `sweep` a comma may
    separate values.

    Raises:
        ConfigError: for texts among which are true, false or a number that cannot be put in quotes without guessing.
    """
    return [_kept(word, sweep) for word in overrides]


def _kept(word: str, sweep: bool) -> str:
    key, equals, value = word.partition("=")
    kind = _kind_of(key.lstrip("+"))
    if not equals or key.startswith(("~", "-")) or kind is None:
        return word
    if kind == PATHS:
        kind = LIST if value.lstrip().startswith("[") else TEXT
    parsed = _parsed(word)
    if parsed is not None and not _holds_other(parsed):
        return word
    if kind == TEXT and (parsed is None or isinstance(parsed, bool | int | float)):
        return word if parsed is None and sweep and "," in value else f"{key}={_quoted(value)}"
    if parsed is None:
        return word  # the parser's own message says where
    if kind == TEXT and SIMPLE.fullmatch(value):  # a sweep
        return f"{key}=" + ",".join(_quoted(one.strip()) for one in value.split(","))
    inner = value.strip()[1:-1]
    if kind == LIST and isinstance(parsed, list) and SIMPLE.fullmatch(inner):
        return f"{key}=[" + ",".join(map(_element, inner.split(","))) + "]"
    if kind == DICT and isinstance(parsed, dict) and SIMPLE.fullmatch(inner):
        pairs = (pair.partition(":") for pair in inner.split(","))
        return f"{key}={{" + ",".join(f"{name.strip()}: {_element(text)}" for name, _, text in pairs) + "}"
    raise ConfigError(key, f"must hold text only (got {value}).", "Put true, false and numbers in quotes too.")


def _kind_of(key: str) -> str | None:
    """How a setting holds text; None for all others."""
    known, key = text_settings(), re.sub(r"^dataset\.parts\.[^.]+\.(?=.)", "dataset.", key)
    return TEXT if known.get(key.rpartition(".")[0]) == DICT else known.get(key)


def _parsed(word: str) -> Any:
    """The value as Hydra reads it; None where it cannot, and for null, which is no text."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep, QuotedString
    from hydra.errors import HydraException

    try:
        value = OverridesParser.create().parse_override(word).value()
    except HydraException:
        return None
    if value is None or isinstance(value, QuotedString):
        return ""
    return [*value.list] if isinstance(value, ChoiceSweep) else value


def _holds_other(value: Any) -> bool:
    """Whether true, false or a number is in it."""
    if isinstance(value, list | dict):
        return any(map(_holds_other, value.values() if isinstance(value, dict) else value))
    return isinstance(value, bool | int | float)


def _element(text: str) -> str:
    return "null" if text.strip() == "null" else _quoted(text.strip())


def _quoted(text: str) -> str:
    """A text as Hydra's grammar quotes it: backslashes count where a quote follows."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def check_part(settings: Mapping[str, Any], place: str) -> None:
    """Refuse a part of a mixture that has true, false or a number where a data set takes text."""
    for name, value in settings.items():
        if f"dataset.{name}" in text_settings() and _holds_other(value):
            raise ConfigError(f"{place}.{name}", f"must be text (got {value}).", "Put it in quotes.")
