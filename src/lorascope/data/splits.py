"""Split rows into train and eval by hash, so that a row stays where it is when others are added."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from lorascope.config.schema import DatasetConfig, OnBadRow
from lorascope.data.columns import BadRowError, Said, Shape, find_shape, to_row
from lorascope.data.prompts import read_template
from lorascope.data.rows import RawRow, Row, Rows, spooled
from lorascope.errors import DataError

MANY_GROUPS = 20


def split_rows(rows: Sequence[Row], eval_share: float, *, by_group: bool) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Train and eval rows, in their order.

    Args:
        eval_share: of the rows, or of the groups; 0 < eval_share < 1.
        by_group: rows of one group stay together; otherwise rows of one prompt do, so that none is on both sides.

    Raises:
        DataError: when a half stays empty.
    """
    train = tuple(row for row in rows if not is_held_out(row, eval_share, by_group=by_group))
    kept = set(map(id, train))
    evaluation = tuple(row for row in rows if id(row) not in kept)
    require_halves(train, evaluation, rows if by_group else len(rows), eval_share)
    return train, evaluation


def validated(rows: Rows, share: float) -> Rows:
    """A share of the train half in the eval half's place, so that what is tuned never saw what judges it.

    By group where the train rows have many groups (templates, books), else by prompt; the further sets are left out.

    Raises:
        DataError: when a half stays empty.
    """
    groups = {row.group for row in rows.train}
    by_group = len(groups) >= MANY_GROUPS

    def is_validation(row: Row) -> bool:
        # another hash than the split's own, which has left no train row with a small one
        return _held_out("validation\n" + (row.group if by_group else row.prompt), share)

    train = tuple(row for row in rows.train if not is_validation(row))
    held = tuple(row for row in rows.train if is_validation(row))
    for half, found in (("train", train), ("validation", held)):
        if not found:
            what = f"no {half} row comes out of {len(rows.train)} train rows."
            raise DataError(f"dataset.validation_share={share}", what, "Choose another share.")
    by = "groups" if by_group else "prompts"
    split = f"a share of {share:g} of the train half's {by} in place of the eval half, by hash"
    return replace(rows, train=train, eval=held, probes={}, split=split)


def require_halves(train: Sequence[Row], evaluation: Sequence[Row], of: Sequence[Row] | int, eval_share: float) -> None:
    """Refuse a half without rows.

    Args:
        train: one half.
        evaluation: the other.
        of: the rows that were divided by their groups, or how many they were.
        eval_share: that divided them.

    Raises:
        DataError: when a half stays empty.
    """
    for half, found in (("train", train), ("eval", evaluation)):
        if not found:
            what = f"{of} rows" if isinstance(of, int) else f"{len({row.group for row in of})} groups"
            raise DataError(
                f"dataset.eval_share={eval_share}",
                f"no {half} row comes out of {what}.",
                "Choose another share, or name the eval half: dataset.eval_path=FILE",
            )


def is_held_out(row: Row, eval_share: float, *, by_group: bool) -> bool:
    """Whether the split puts a row into the eval half."""
    return _held_out(row.group if by_group else row.prompt, eval_share)


def _held_out(key: str, share: float) -> bool:
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def split_words(dataset: DatasetConfig) -> str:
    """How the rows are divided, for the record."""
    by = f"values of the column {dataset.group}" if dataset.group else "prompts"
    return f"{dataset.eval_share:g} of the {by}, by hash"


PEEKED = 1000  # rows that tell the columns of a stream


class RawSource(NamedTuple):
    """Raw rows, given anew at each call, and the file or hub id that they come from."""

    rows: Callable[[], Iterator[RawRow]]
    place: str


def read_halves(
    dataset: DatasetConfig, labels: Sequence[str], main: RawSource, other: RawSource | None
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
    reading = RowReader(main, dataset, said(dataset), labels)
    later = RowReader(other, dataset, said(dataset, evaluation=True), labels) if other else None
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


class RowReader:
    """Raw rows as checked ones, in order; what is wrong with the others is kept.

    Raises:
        DataError: when it is made, for columns that tell no shape; by `finish`, for bad rows.
    """

    def __init__(self, source: RawSource, dataset: DatasetConfig, said: Said, labels: Sequence[str]) -> None:
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
