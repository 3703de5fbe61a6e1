"""Several data sets as one: parts and how often each is seen come in, rows go out, each part's eval half a set too."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lorascope.config import DatasetConfig, from_dict
from lorascope.data.rows import Row, Rows
from lorascope.errors import LorascopeError


class Part(NamedTuple):
    """One data set of a mixture."""

    weight: float  # how often its rows are seen in an epoch
    dataset: DatasetConfig


def parts_of(dataset: DatasetConfig) -> dict[str, Part]:
    """The parts by name, as `compose` filled them in."""
    return {
        name: Part(given["weight"], from_dict(DatasetConfig, {k: v for k, v in given.items() if k != "weight"}))
        for name, given in dataset.parts.items()
    }


def load(dataset: DatasetConfig) -> Rows:
    """The parts' rows, part by part; a part's eval half and its further sets are sets of the mixture under its name.

    Raises:
        DataError: for whatever a part cannot be loaded for, with the part's name.
    """
    found = {name: (part, _rows_of(name, part.dataset)) for name, part in parts_of(dataset).items()}
    probes: dict[str, Sequence[Row]] = {}
    labels_of: dict[str, tuple[str, ...]] = {}
    for name, (_, rows) in found.items():
        for key, asked in {name: rows.eval, **{f"{name}.{probe}": one for probe, one in rows.probes.items()}}.items():
            probes[key] = asked
            if rows.labels and all(row.completion in rows.labels for row in asked):
                labels_of[key] = rows.labels
        labels_of |= {f"{name}.{probe}": labels for probe, labels in rows.labels_of.items()}
    return Rows(
        train=tuple(row for part, rows in found.values() for row in seen(rows.train, part.weight)),
        eval=tuple(row for _, rows in found.values() for row in rows.eval),
        origin="; ".join(f"{name}: {rows.origin}" for name, (_, rows) in found.items()),
        shape="; ".join(dict.fromkeys(rows.shape for _, rows in found.values())),
        skipped=tuple(line for _, rows in found.values() for line in rows.skipped),
        probes=probes,
        labels_of=labels_of,
        license=_each({name: rows.license for name, (_, rows) in found.items()}),
        split=_each({name: rows.split for name, (_, rows) in found.items()}),
    )


def seen(rows: Sequence[Row], weight: float) -> list[Row]:
    """The rows as an epoch sees them: each so often, and of a fraction the same ones every time."""
    whole, share = divmod(weight, 1)
    drawn = round(share * len(rows)) if whole or not rows else max(1, round(share * len(rows)))
    chosen = sorted(random.Random(0).sample(range(len(rows)), drawn))
    return [*rows] * int(whole) + [rows[index] for index in chosen]


def _rows_of(name: str, dataset: DatasetConfig) -> Rows:
    from lorascope.data.sources import load_rows

    try:
        return load_rows(dataset)
    except LorascopeError as error:
        raise type(error)(f"dataset.parts.{name}: {error.place}", error.what, error.remedy) from error


def _each(said: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {words}" for name, words in said.items() if words)
