"""Raw rows become checked ones in two halves: in the memory, or through the disk where they are streamed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from lorascope.config import DatasetConfig, OnBadRow
from lorascope.data.readers import RawRow
from lorascope.data.rows import Row
from lorascope.data.shapes import BadRowError, Said, Shape, find_shape, to_row
from lorascope.data.split import is_held_out, require_halves, split_rows
from lorascope.data.spool import spooled
from lorascope.data.template import read_template
from lorascope.errors import DataError

PEEKED = 1000  # rows that tell the columns of a stream


class Source(NamedTuple):
    """Raw rows, given anew at each call, and the file or hub id that they come from."""

    rows: Callable[[], Iterator[RawRow]]
    place: str


def read_halves(
    dataset: DatasetConfig, labels: Sequence[str], main: Source, other: Source | None
) -> tuple[Sequence[Row], Sequence[Row], str, tuple[str, ...]]:
    """Train and eval rows, the name of their shape, and a line for each that was skipped.

    Args:
        dataset: its settings decide.
        labels: the answers' classes, where there are any.
        main: what is learned from.
        other: the eval half, where it is not a share of the rows.

    Raises:
        DataError: for the first bad row, unless they are skipped; when no row is left.
    """
    reading = Reading(main, dataset, said(dataset), labels)
    later = Reading(other, dataset, said(dataset, evaluation=True), labels) if other else None
    by_group = dataset.group is not None
    if not dataset.streaming:
        rows = reading.all()
        if later is not None:
            return tuple(rows), tuple(later.all()), reading.shape_name, (*reading.bad, *later.bad)
        train, rest = split_rows(rows, dataset.eval_share, by_group=by_group)
        return train, rest, reading.shape_name, tuple(reading.bad)
    if later is not None:
        one, _ = spooled(iter(reading), dataset.max_train_samples, lambda row: False, None)
        two, _ = spooled(iter(later), dataset.max_eval_samples, lambda row: False, None)
        reading.finish(one)
        later.finish(two)
        return one, two, reading.shape_name, (*reading.bad, *later.bad)
    one, two = spooled(
        iter(reading),
        dataset.max_train_samples,
        lambda row: is_held_out(row, dataset.eval_share, by_group=by_group),
        dataset.max_eval_samples,
    )
    reading.finish([*one[:1], *two[:1]])
    require_halves(one, two, len(one) + len(two), dataset.eval_share)
    return one, two, reading.shape_name, tuple(reading.bad)


def said(dataset: DatasetConfig, *, evaluation: bool = False) -> Said:
    """What the settings say of the columns of a half."""
    template = read_template(dataset.prompt) if dataset.prompt else None
    if evaluation and dataset.eval_columns:
        return Said(dataset.eval_columns, template, "dataset.eval_columns")
    return Said(dataset.columns, template)


class Reading:
    """Raw rows as checked ones, in order; what is wrong with the others is kept.

    Raises:
        DataError: when it is made, for columns that tell no shape; by `finish`, for bad rows.
    """

    def __init__(self, source: Source, dataset: DatasetConfig, said: Said, labels: Sequence[str]) -> None:
        self.source, self.dataset = source, dataset
        self.bad: list[str] = []
        present: set[str] = set()
        # a stream is not read twice: its first rows tell the columns
        for _, raw in islice(source.rows(), PEEKED if dataset.streaming else None):
            if isinstance(raw, dict):
                present |= raw.keys()
        shape = find_shape(present, said, source.place) if present else None
        self.shape = with_labels(shape, labels) if shape and labels else shape
        # a group matters where rows are split, and an eval half with columns of its own is not
        self.group = None if said.key == "dataset.eval_columns" else dataset.group
        if self.group and shape and self.group not in present:
            there = ", ".join(sorted(present))
            raise DataError(f"dataset.group={self.group}", f"{source.place} has no such column.", f"It has: {there}.")

    @property
    def shape_name(self) -> str:
        """How the rows are read."""
        return self.shape.name if self.shape else ""

    def __iter__(self) -> Iterator[Row]:
        for where, raw in self.source.rows():
            try:
                if isinstance(raw, BadRowError):
                    raise raw
                if not isinstance(raw, dict) or self.shape is None:
                    raise BadRowError("is not an object with named values")
                yield to_row(raw, self.shape, self.dataset.system, self.group, where)
            except BadRowError as error:
                self.bad.append(f"{where}: {error}")

    def all(self) -> list[Row]:
        """Every row."""
        rows = list(self)
        self.finish(rows)
        return rows

    def finish(self, rows: Sequence[Row]) -> None:
        """Refuse bad rows, unless they are skipped, and no rows at all.

        Raises:
            DataError: for the first bad row, with the number of all; when no row is left.
        """
        if self.bad and self.dataset.on_bad_row is OnBadRow.error:
            where, _, what = self.bad[0].partition(": ")
            remedy = f"Mend the row, or dataset.on_bad_row=skip ({len(self.bad)} such rows)."
            raise DataError(f"dataset.path: {where}", f"{what}.", remedy)
        if not rows:
            remedy = "A row is an object, or a line below the heading."
            raise DataError(f"dataset.path={self.source.place}", "it has no rows.", remedy)


def with_labels(shape: Shape, labels: Sequence[str]) -> Shape:
    """The shape of rows whose answers are classes.

    Raises:
        DataError: where conversations or texts are learned, which have no answer to be one.
    """
    if shape.name in ("messages", "text"):
        raise DataError("dataset.labels", f"rows read as {shape.name} are of no class.", "Leave the labels out.")
    return dataclasses.replace(shape, labels=tuple(labels))
