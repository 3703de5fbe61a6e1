"""Validate run and study records with pydantic when they are read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lorascope.errors import RunError

LARGEST, DIGITS = 10**15, 300  # a number of more digits is no float
Kind = TypeVar("Kind")


def _bounded(value: float) -> float:
    if math.isfinite(value) and abs(value) >= LARGEST:
        raise ValueError(f"must be below {LARGEST:.0e}")
    return value


Measured = Annotated[float, AfterValidator(_bounded)] | None  # NaN too
Amount = Annotated[float, Field(gt=-LARGEST, lt=LARGEST, allow_inf_nan=False)] | None
Whole = Annotated[int, Field(gt=-LARGEST, lt=LARGEST)] | None


class _Table(BaseModel):
    """Only what lists, comparisons and resumed runs rely on is looked at; what is absent is older."""

    model_config = ConfigDict(strict=True)


class _Named(_Table):
    name: str | None = None


class _Quantization(_Table):
    scheme: str | None = None


class _Train(_Table):
    learning_rate: Amount = None


class _Config(_Table):
    target: _Named = _Named()
    model: _Named = _Named()
    dataset: _Named = _Named()
    quantization: _Quantization = _Quantization()
    train: _Train = _Train()
    seed: Whole = None


class _Module(_Table):
    role: str | None = None
    alpha: Amount = None
    scale: Amount = None
    rank: Whole = None
    layer: Whole = None
    parameters: Whole = None


class _Plan(_Table):
    modules: list[_Module] = []
    trainable_parameters: Amount = None
    trainable_percent: Amount = None


class _Metric(_Table):
    value: Measured = None
    base: Measured = None
    better: str | None = None
    unit: str | None = None


class _Memory(_Table):
    peak_bytes: Amount = None
    predicted_bytes: Amount = None


class _Fingerprint(_Table):
    hash: str | None = None


class _Environment(_Table):
    packages: dict[str, Any] = {}


class _Session(_Table):
    started: str | None = None


class Record(_Table):
    """`run.json`."""

    run_id: str
    run_hash: str
    name: str
    status: str
    config: _Config
    started: str
    finished: str | None = None
    error: str | None = None
    plan: _Plan = _Plan()
    metrics: dict[str, _Metric] = {}
    timing: dict[str, Amount] = {}
    memory: _Memory = _Memory()
    data: dict[str, Any] = {}
    fingerprint: _Fingerprint = _Fingerprint()
    environment: _Environment = _Environment()
    sessions: list[_Session] = []


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
    json.dumps(raw, ensure_ascii=False).encode("utf-8")  # half a character, which JSON can write, cannot be shown
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
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{place} is missing"
    rule = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    rule = re.sub(r"\ba valid ([aeiou])", r"an \1", rule).replace("a valid ", "a ")
    given = repr(first["input"])
    return f"{place} {rule} (got {given if len(given) <= 40 else given[:40] + '…'})".strip()


@contextmanager
def damage_reported(path: Path, missing: str, damaged: str) -> Iterator[None]:
    """What reading a file can raise becomes a RunError.

    Args:
        path: its place.
        missing: the remedy where it cannot be read.
        damaged: the remedy where it holds something else.
    """
    try:
        yield
    except OSError as error:
        raise RunError(str(path), f"cannot be read: {error.strerror}.", missing) from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise RunError(str(path), f"is damaged: {what.rstrip('.')}.", damaged) from error
