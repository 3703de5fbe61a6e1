"""Validate run and study records with pydantic when they are read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from lorascope.errors import RunError

LARGEST, DIGITS = 10**15, 300  # a number of more digits is no float
Kind = TypeVar("Kind")


def _bounded(value: float) -> float:
    if math.isfinite(value) and abs(value) >= LARGEST:
        raise ValueError(f"must be below {LARGEST:.0e}")
    return value


def _table(**fields: Any) -> Any:
    """A model of fields that may be absent, as in older records; a tuple is pydantic's own definition of a field."""
    definitions: Any = {name: kind if isinstance(kind, tuple) else (kind, None) for name, kind in fields.items()}
    return create_model("Table", __config__=ConfigDict(strict=True), **definitions)


# only what lists, comparisons and resumed runs rely on is checked
Text, NeededText = str | None, (str, ...)
Measured = Annotated[float, AfterValidator(_bounded)] | None  # NaN too
Amount = Annotated[float, Field(gt=-LARGEST, lt=LARGEST, allow_inf_nan=False)] | None
Whole = Annotated[int, Field(gt=-LARGEST, lt=LARGEST)] | None
Named = _table(name=Text)
Config = _table(
    target=Named,
    model=Named,
    dataset=Named,
    quantization=_table(scheme=Text),
    train=_table(learning_rate=Amount),
    seed=Whole,
)
PlannedModule: Any = _table(role=Text, alpha=Amount, scale=Amount, rank=Whole, layer=Whole, parameters=Whole)
Record = _table(
    run_id=NeededText,
    run_hash=NeededText,
    name=NeededText,
    status=NeededText,
    config=(Config, ...),
    started=NeededText,
    finished=Text,
    error=Text,
    plan=_table(modules=list[PlannedModule], trainable_parameters=Amount, trainable_percent=Amount),
    metrics=dict[str, _table(value=Measured, base=Measured, better=Text, unit=Text)],  # type: ignore[misc]
    timing=dict[str, Amount],
    memory=_table(peak_bytes=Amount, predicted_bytes=Amount),
    data=dict[str, Any],
    fingerprint=_table(hash=Text),
    environment=_table(packages=dict[str, Any]),
    notes=list[str],
    sessions=list[_table(started=Text)],  # type: ignore[misc]
)


def read_object(path: Path, latest: int) -> dict[str, Any]:
    """A JSON file's object.

    Raises:
        RunError: when a version of lorascope wrote it that knows a later schema than `latest`.
        ValueError, KeyError, TypeError, OverflowError, RecursionError: when it is damaged.
        OSError: when it cannot be read.
    """
    raw = json.loads(path.read_text(encoding="utf-8"), parse_int=_integer)
    version = int(raw["schema_version"])
    if version > latest:
        raise RunError(str(path), f"has schema version {version}.", f"This lorascope reads up to {latest}.")
    json.dumps(raw, ensure_ascii=False).encode("utf-8")  # JSON can have half a surrogate pair, which cannot be printed
    return raw


def _integer(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number must have at most {DIGITS} digits (got {len(digits)})")
    return int(digits)


def check(kind: type[Kind], raw: dict[str, Any]) -> Kind:
    """The object as pydantic reads it, without conversions.

    Raises:
        ValueError: with the place, the rule and the value of the first one that does not fit.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise ValueError(_plain(error)) from None


def _plain(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"{place} is missing"
    rule = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    rule = re.sub(r"\ba valid ([aeiou])", r"an \1", rule).replace("a valid ", "a ")
    given = repr(first["input"])
    return f"{place} {rule} (got {given if len(given) <= 40 else given[:40] + '…'})".strip()


@contextmanager
def damage_reported(path: Path, missing: str, damaged: str) -> Iterator[None]:
    """Turn what reading a file can raise into a RunError, with one remedy for each case."""
    try:
        yield
    except OSError as error:
        raise RunError(str(path), f"cannot be read: {error.strerror}.", missing) from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise RunError(str(path), f"is damaged: {what.rstrip('.')}.", damaged) from error
