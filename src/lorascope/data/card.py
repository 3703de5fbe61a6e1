"""What a data set is, in figures: rows and their encoded halves come in, a card for the record goes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lorascope.data.rows import Row, Rows
from lorascope.data.tokens import Encoded

QUANTILES = {"shortest": 0.0, "quarter": 0.25, "median": 0.5, "three_quarters": 0.75, "most": 0.95, "longest": 1.0}


def data_card(rows: Rows, train: Encoded, evaluation: Encoded) -> dict[str, Any]:
    """The card, JSON-ready.

    Args:
        rows: both halves and the further sets, as they were loaded.
        train: the encoded train half.
        evaluation: the encoded eval half.

    Returns:
        `task`, `origin`, `license`, `split` in words; for each half `rows`, `tokens` and `supervised_tokens`, `lengths`
        in tokens (nearest rank; `most` is the 95th of a hundred), `duplicated_prompts`, the share of rows whose prompt
        came before in this half, and `labels`, rows of each class; for each further set the same without tokens.
    """
    return {
        "task": task_of(rows),
        "origin": rows.origin,
        "license": rows.license or None,
        "split": rows.split or None,
        "train": _half(rows.train, train, rows.labels),
        "eval": _half(rows.eval, evaluation, rows.labels),
        "sets": {name: _set(asked, rows.labels_of.get(name, rows.labels)) for name, asked in rows.probes.items()},
    }


def task_of(rows: Rows) -> str:
    """What kind of thing is learned: classification, texts, conversations, or questions and answers; or several."""
    if rows.labels:
        return "classification"
    kinds = Counter(_kind(row) for row in rows.train)
    if rows.labels_of:
        kinds["classification"] += 1
    return " and ".join(sorted(kinds))


def _kind(row: Row) -> str:
    if not row.messages:
        return "texts"
    return "conversations" if sum(message.role == "assistant" for message in row.messages) > 1 else "answers"


def quantiles(lengths: Iterable[int]) -> dict[str, int]:
    """Lengths that so many rows are not above, by nearest rank; nothing for no rows."""
    found = sorted(lengths)
    return {name: found[max(0, _rank(share, len(found)) - 1)] for name, share in QUANTILES.items()} if found else {}


def _rank(share: float, rows: int) -> int:
    return -int(-share * rows // 1)  # the ceiling


def _half(rows: Sequence[Row], encoded: Encoded, labels: Sequence[str]) -> dict[str, Any]:
    return _set(rows, labels) | {
        "tokens": encoded.tokens,
        "supervised_tokens": encoded.supervised_tokens,
        "lengths": quantiles(map(len, encoded.input_ids)),
    }


def _set(rows: Sequence[Row], labels: Sequence[str]) -> dict[str, Any]:
    card: dict[str, Any] = {"rows": len(rows), "duplicated_prompts": duplicated(rows)}
    if labels:
        card["labels"] = _counts(rows, labels)
    return card


def duplicated(rows: Sequence[Row]) -> float:
    """The share of rows whose prompt stands in an earlier row, apart from case and spaces."""
    prompts = {" ".join(row.prompt.casefold().split()) for row in rows}
    return round(1 - len(prompts) / len(rows), 6) if rows else 0.0


def _counts(rows: Sequence[Row], labels: Sequence[str]) -> Mapping[str, int]:
    found = Counter(row.completion for row in rows)
    return {label: found[label] for label in labels}
