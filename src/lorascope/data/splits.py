"""Split rows into train and eval by hash, so that a row stays where it is when others are added."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from lorascope.config.schema import DatasetConfig, OnBadRow
from lorascope.data.classes import counts_classes
from lorascope.data.columns import (
    ANSWERS,
    ColumnSettings,
    column_settings,
    infer_format,
    is_bad_answer,
    require_column,
    to_row,
    unused_columns,
    without,
)  # fmt: skip
from lorascope.data.messages import BadRowError
from lorascope.data.rows import DiskRows, RawRow, Row, Rows
from lorascope.errors import DataError

MANY_GROUPS = 20
COLUMN_ROWS = 1000  # rows of a stream that are read for its columns


def split_rows(rows: Sequence[Row], eval_share: float, *, by_group: bool) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Train and eval rows, in their order.

    Args:
        eval_share: of the rows, or of the groups; 0 < eval_share < 1.
        by_group: keep rows of one group together; otherwise rows of one prompt, so that none is in both splits.

    Raises:
        DataError: when a split is empty.
    """
    train, evaluation = _divide(rows, lambda row: is_held_out(row, eval_share, by_group=by_group))
    _require_rows(train, evaluation, eval_share, by_group=by_group)
    return tuple(train), tuple(evaluation)


def hold_out_validation(rows: Rows, share: float) -> Rows:
    """Replace the eval split by a share of the train split, so that tuning never sees the eval rows.

    By group where the train rows have many groups (templates, books), else by prompt; the further sets are left out.
    """
    by_group = len({row.group for row in rows.train}) >= MANY_GROUPS
    # a prefix, since by the eval split's own hash no train row is among the first
    train, held = _divide(rows.train, lambda row: is_held_out(row, share, by_group=by_group, prefix="validation\n"))
    for name, found in (("train", train), ("validation", held)):
        if not found:
            what = f"no {name} row comes out of {len(rows.train)} train rows."
            raise DataError(f"dataset.validation_share={share}", what, "Choose another share.")
    by = "groups" if by_group else "prompts"
    split = f"a share of {share:g} of the train half's {by} in place of the eval half, by hash"
    return replace(rows, train=tuple(train), eval=tuple(held), probes={}, split=split)


def is_held_out(row: Row, share: float, *, by_group: bool, prefix: str = "", with_system: bool = False) -> bool:
    """Whether the hash of the group or the prompt is among the first `share` of all."""
    key = row.group if by_group else row.prompt
    if with_system and row.messages:
        key = "\n".join(message.content for message in row.messages[:-1])
    digest = hashlib.sha256((prefix + key).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def _divide(
    rows: Iterable[Row],
    held_out: Callable[[Row], bool],
    caps: tuple[int | None, int | None] = (None, None),
    new: Callable[[], Any] = list,
) -> tuple[Any, Any]:
    """The rows that stay and those that are held out; reading ends when so many stay."""
    stay, held = new(), new()
    for row in rows:
        if not held_out(row):
            stay.append(row)
        elif caps[1] is None or len(held) < caps[1]:
            held.append(row)
        if len(stay) == caps[0]:
            break
    return stay, held


def _require_rows(train: Sequence[Row], evaluation: Sequence[Row], share: float, *, by_group: bool) -> None:
    for name, found in (("train", train), ("eval", evaluation)):
        if not found:
            every = (*train, *evaluation)
            kinds = {row.group if by_group else row.prompt for row in every}
            whole, remedy = (
                f"{len(kinds)} groups" if by_group else f"{len(every)} rows",
                "Choose another share, or name",
            )
            if len(kinds) == 1 and len(every) > 1:  # no share divides them
                whole = f"rows that are all of the group '{every[0].group}'" if by_group else "rows of one prompt"
                remedy = "Name"
            raise DataError(
                f"dataset.eval_share={share}",
                f"no {name} row comes out of {whole}.",
                f"{remedy} the eval half: dataset.eval_path=FILE",
            )


class RawSource(NamedTuple):
    """Where raw rows come from."""

    rows: Callable[[], Iterator[RawRow]]  # from the first one at each call
    place: str  # file or hub id
    split: str = ""  # for the record, where these are the eval rows


def read_splits(
    dataset: DatasetConfig, main: RawSource, other: RawSource | None, labels: Sequence[str], origin: str
) -> Rows:
    """Check and split the rows of files or of a hub data set.

    Args:
        main: the train rows.
        other: the eval rows, where they are not a share of the others.
        labels: the classes of the answers, if any.

    Raises:
        DataError: for the first bad row, unless they are skipped; when a split is empty.
    """
    reader, by_group = RowReader(main, dataset, labels), dataset.group is not None
    bad = reader.bad
    if other:
        later = RowReader(other, dataset, labels, evaluation=True)
        train, _ = reader.read(dataset.max_train_samples)
        evaluation, _ = later.read(dataset.max_eval_samples)
        bad, split = bad + later.bad, other.split
    else:
        with_system = not by_group and reader.one_question()
        held_out = partial(is_held_out, share=dataset.eval_share, by_group=by_group, with_system=with_system)
        train, evaluation = reader.read(dataset.max_train_samples, dataset.max_eval_samples, held_out)
        _require_rows(train, evaluation, dataset.eval_share, by_group=by_group)
        by = f"values of the column {dataset.group}" if by_group else "prompts"
        by += " with their system messages" if with_system else ""
        split = f"{dataset.eval_share:g} of the {by}, by hash"
    readers = (reader, later) if other else (reader,)
    return Rows(
        train, evaluation, origin, reader.format_name, tuple(bad), labels=tuple(labels), split=split,
        unused=tuple(sorted(set.union(*(one.unused for one in readers)))),
        notes=tuple(note for one in readers for note in one.notes()),
    )  # fmt: skip


def _answer_columns(settings: ColumnSettings) -> tuple[str, ...]:
    named = settings.columns.get("completion") or settings.columns.get("output")
    return (named,) if named else ANSWERS


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float)


class RowReader:
    """Check raw rows in their order and collect what is wrong with the bad ones.

    Raises:
        DataError: when the columns fit no format.
    """

    def __init__(
        self, source: RawSource, dataset: DatasetConfig, labels: Sequence[str], *, evaluation: bool = False
    ) -> None:
        self.source, self.dataset, self.evaluation = source, dataset, evaluation
        settings = column_settings(dataset, evaluation=evaluation)
        self.bad: list[str] = []
        self.remedy = ""  # of the first bad row
        self.unused: set[str] = set()
        self.left_out = 0  # rows that say that their answer is a bad one
        # a stream is not read twice for its columns
        first = islice(source.rows(), COLUMN_ROWS if dataset.streaming else None)
        every: set[str] = set()
        present: set[str] = set()
        filled = set(settings.columns.values())
        answers: dict[Any, None] = {}
        wanted = _answer_columns(settings) if labels else ()
        for raw in (raw for _, raw in first if isinstance(raw, dict)):
            every |= raw.keys()
            raw = without(raw, dataset.drop)
            present |= raw.keys()
            filled |= {name for name, value in raw.items() if value is not None}
            answers |= {(name, type(raw[name]), raw[name]): None for name in wanted if _is_plain(raw.get(name))}
        # a hub data set is read without them from the start
        for name in dataset.drop if every and not evaluation and dataset.source == "file" else ():
            require_column(name.partition("[]")[0], every, f"dataset.drop={name}", source.place)
        # Arrow holds null where a row lacks a key: what is null in every row is no column
        present = present & filled or present
        self.format = infer_format(present, settings, source.place, labels) if present else None
        if self.format and labels:
            values = [value for name, _, value in answers if name == self.format.answer]
            self.format = self.format._replace(by_index=counts_classes(values, labels))
        self.format_name = self.format.name if self.format else ""
        # the group matters where rows are split, and an eval split with columns of its own is not
        self.group = None if settings.key == "dataset.eval_columns" else dataset.group
        if self.group and present:
            require_column(self.group, present, f"dataset.group={self.group}", source.place)

    def _raw_rows(self) -> Iterator[RawRow]:
        """The raw rows without the columns and keys that are dropped."""
        return ((place, without(raw, self.dataset.drop)) for place, raw in self.source.rows())

    def notes(self) -> list[str]:
        """What is to be said of the rows that were read."""
        if not self.left_out or not self.format:
            return []
        rows = "row is" if self.left_out == 1 else "rows are"
        of = " of the eval half" if self.evaluation else ""
        why = f"{self.format.judged} is false, so the answer is a bad one"
        return [f"{self.left_out} {rows} left out{of}: {why} ('dataset.drop=[{self.format.judged}]' trains on all)"]

    def one_question(self) -> bool:
        """Whether all rows that are read for their columns ask the same, so that only their documents differ."""
        prompts = {row.prompt for row in islice(self, COLUMN_ROWS) if row.messages}
        return len(prompts) == 1

    def __iter__(self) -> Iterator[Row]:
        self.bad.clear()
        self.left_out = 0
        for where, raw in self._raw_rows():
            try:
                if isinstance(raw, BadRowError):
                    raise raw
                if not isinstance(raw, dict) or self.format is None:
                    raise BadRowError("is not an object with named values")
                if self.format.judged and is_bad_answer(raw, self.format):
                    self.left_out += 1
                    continue
                row = to_row(raw, self.format, self.dataset.system, self.group, where)
                self.unused |= unused_columns(raw, self.format, self.dataset.group)
                yield row
            except BadRowError as error:
                self.remedy = self.remedy if self.bad else error.remedy
                self.bad.append(f"{where}: {error}")

    def read(
        self, cap: int | None, held_out_cap: int | None = None, held_out: Callable[[Row], bool] = lambda row: False
    ) -> tuple[Sequence[Row], Sequence[Row]]:
        """The rows that stay and those that are held out; only a stream ends at its cap.

        Raises:
            DataError: for the first bad row, with the number of all, unless they are skipped; when no row is left.
        """
        if self.dataset.streaming:
            found = _divide(self, held_out, (cap, held_out_cap), DiskRows)
        else:
            stay, held = _divide(self, held_out)
            found = tuple(stay), tuple(held)
        if self.bad and self.dataset.on_bad_row is OnBadRow.error:
            where, _, what = self.bad[0].partition(": ")
            skip = f"or dataset.on_bad_row=skip ({len(self.bad)} such rows)."
            remedy = f"{self.remedy.rstrip('.')}; {skip}" if self.remedy else f"Correct the row, {skip}"
            raise DataError(f"dataset.path: {where}", f"{what}.", remedy)
        if not any(found):
            if self.left_out and self.format:
                what, remedy = f"all its {self.left_out} answers are bad ones, by {self.format.judged}.", "Name others."
            else:
                what, remedy = "it has no rows.", "A row is an object, or a line below the heading."
            raise DataError(f"dataset.path={self.source.place}", what, remedy)
        return found
