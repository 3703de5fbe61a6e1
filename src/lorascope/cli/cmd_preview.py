"""lorascope preview: show the rows as the model will see them, what of them is learned, and how long they are."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from lorascope.cli import Command, add_quiet
from lorascope.config.schema import DatasetConfig, OnBadRow, TrainConfig
from lorascope.data.chat_template import with_template
from lorascope.data.rows import Rows
from lorascope.data.sources import load_rows
from lorascope.data.statistics import data_notes
from lorascope.data.tokenization import IGNORED, TokenizedSplit, encode_splits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Shown:
    """One row as the model reads it."""

    input_ids: list[int]
    supervised: list[bool]
    spans: list[tuple[str, bool]]  # the text in pieces, each learned or not

    @property
    def text(self) -> str:
        """The row's text, special tokens included."""
        return "".join(piece for piece, _ in self.spans)


@dataclass(frozen=True)
class Half:
    """One half of the data, encoded."""

    encoded: TokenizedSplit
    tokenizer: PreTrainedTokenizerBase

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(ids) for ids in self.encoded.input_ids]

    def first(self, rows: int) -> Iterator[Shown]:
        """The first rows, as the model reads them."""
        for ids, labels in islice(zip(self.encoded.input_ids, self.encoded.labels, strict=True), rows):
            supervised = [label != IGNORED for label in labels]
            yield Shown(ids, supervised, _spans(ids, supervised, self.tokenizer))


@dataclass(frozen=True)
class DatasetPreview:
    """A data set under a config's train settings."""

    rows: Rows
    train: Half
    eval: Half
    max_length: int
    batch: int  # rows of one optimizer step
    notes: list[str]

    @property
    def tokens_per_step(self) -> float:
        """Tokens that one optimizer step reads, on average, without padding."""
        return self.batch * self.train.encoded.tokens / len(self.train.encoded)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the train half."""
        return math.ceil(len(self.train.encoded) / self.batch)


def summarise(dataset: DatasetConfig, train: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> DatasetPreview:
    """Load and encode a data set as a run would.

    Raises:
        DataError: for whatever would stop the run.
    """
    skip = dataset.on_bad_row is OnBadRow.skip
    rows, one, other = encode_splits(load_rows(dataset), tokenizer, train.max_length, skip=skip)
    return DatasetPreview(
        rows=rows,
        train=Half(one, tokenizer),
        eval=Half(other, tokenizer),
        max_length=train.max_length,
        batch=train.batch_size * train.gradient_accumulation,
        notes=data_notes(rows, one, other, tokenizer),
    )


def _spans(ids: list[int], supervised: list[bool], tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, bool]]:
    """The decoded text in pieces that are learned or not. A row's first token is never learned: nothing predicts it."""
    learned = [False, *supervised[1:]]
    pieces = []
    for flag, run in groupby(zip(ids, learned, strict=True), key=lambda pair: pair[1]):
        pieces.append((tokenizer.decode([token for token, _ in run], clean_up_tokenization_spaces=False), flag))
    return pieces


def histogram(lengths: list[int], bars: int = 8) -> list[tuple[int, int, int]]:
    """(from, to, rows) of equally wide bins over the lengths; `to` is inside the bin."""
    low, high = min(lengths), max(lengths)
    width = max(1, math.ceil((high - low + 1) / bars))
    edges = range(low, high + 1, width)
    return [(edge, edge + width - 1, sum(edge <= length < edge + width for length in lengths)) for edge in edges]


LEARNED = "bold green"
OPEN, CLOSE = "⟦", "⟧"  # around what is learned, where there are no colours


def _preview_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="the same words as for train")
    parser.add_argument("--rows", type=int, default=3, metavar="N", help="rows to show of each half (default: 3)")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own groups, as for train")
    add_quiet(parser, "no row")
    parser.add_argument("--json", action="store_true", help="print rows, tokens and figures as JSON")


def _run_preview(options: argparse.Namespace) -> None:
    """Load rows and tokenizer, no weights, and show them."""
    from lorascope.base.loading import load_tokenizer
    from lorascope.compose import compose
    from lorascope.console import console, hush

    config = compose(options.overrides, options.config_dir)
    hush()
    summary = summarise(config.dataset, config.train, with_template(load_tokenizer(config.model), config.dataset))
    if options.json:
        print(json.dumps(as_json(summary, options.rows), indent=1, ensure_ascii=False))
    else:
        show_preview(console(), summary, options.rows)


def as_json(summary: DatasetPreview, rows: int) -> dict[str, Any]:
    """The figures, and so many rows of each half with their tokens and what of them is learned."""
    halves = {}
    for name, half in (("train", summary.train), ("eval", summary.eval)):
        halves[name] = {
            "rows": len(half.encoded),
            "tokens": half.encoded.tokens,
            "supervised_tokens": half.encoded.supervised_tokens,
            "longest": max(half.lengths),
            "truncated": half.encoded.truncated,
            "skipped": [*half.encoded.skipped],
            "examples": [
                {"text": shown.text, "input_ids": shown.input_ids, "supervised": shown.supervised}
                for shown in half.first(rows)
            ],
        }
    return {
        "origin": summary.rows.origin,
        "shape": summary.rows.shape,
        "skipped": list(summary.rows.skipped),
        "unused": list(summary.rows.unused),
        "notes": summary.notes,
        "tokens_per_step": summary.tokens_per_step,
        "steps_per_epoch": summary.steps_per_epoch,
        **halves,
    }


def show_preview(out: Console, summary: DatasetPreview, rows: int) -> None:
    """Everything there is to see before a run."""
    out.print(f"[bold]{summary.rows.origin}[/]   read as: {summary.rows.shape}")
    marked = f"[{LEARNED}]in green[/]" if out.is_terminal else f"between {OPEN} and {CLOSE}"
    out.print(f"What is learned stands {marked}.")
    for name, half in (("train", summary.train), ("eval", summary.eval)):
        for number, shown in enumerate(half.first(rows), start=1):
            length, learned = len(shown.input_ids), sum(shown.supervised[1:])
            out.print(f"\n[dim]{name} row {number}: {length} tokens, {learned} learned[/]")
            out.print(_row(shown, colour=out.is_terminal))
    out.print()
    for name, half in (("train", summary.train), ("eval", summary.eval)):
        _show_lengths(out, name, half, summary.max_length)
    out.print(
        f"a step reads {summary.tokens_per_step:,.0f} tokens ({summary.batch} rows); an epoch is "
        f"{summary.steps_per_epoch:,} steps, {summary.train.encoded.tokens:,} tokens"
    )
    for note in summary.notes:
        out.print(Text.assemble(("note", "yellow"), f"  {note}"))


def _row(shown: Shown, *, colour: bool) -> Text:
    text = Text()
    for piece, learned in shown.spans:
        if learned and not colour:
            text.append(f"{OPEN}{piece}{CLOSE}")
        else:
            text.append(piece, style=LEARNED if learned else "")
    return text


def _show_lengths(out: Console, name: str, half: Half, max_length: int) -> None:
    encoded = half.encoded
    share = encoded.supervised_tokens / encoded.tokens
    out.print(
        f"[bold]{name}[/]  {len(encoded):,} rows, {encoded.tokens:,} tokens, {encoded.supervised_tokens:,} of them "
        f"learned ({share:.0%}), longest {max(half.lengths)}, cut at {max_length}: {encoded.truncated}"
    )
    bins = histogram(half.lengths)
    most = max(count for _, _, count in bins)
    for low, high, count in bins:
        out.print(f"  {low:>5}-{high:<5} {'█' * round(40 * count / most):<40} {count:,}")


PREVIEW = Command(
    "preview",
    "show the rows as the model will see them, what of them is learned, and how long they are.",
    "lorascope preview dataset=file dataset.path=my.jsonl",
    _preview_arguments,
    _run_preview,
)
