"""Rows become a train and an eval half: by hash, so that a row stays where it is when others come or go."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from lorascope.config import DatasetConfig
from lorascope.data.rows import Row, Rows
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
