"""lorascope preview: show the rows as the model will see them, what of them is learned, and how long they are."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from lorascope.data.summary import histogram

if TYPE_CHECKING:
    from lorascope.data.summary import Half, Shown, Summary

EXAMPLE = "lorascope preview dataset=file dataset.path=my.jsonl"
LEARNED = "bold green"
OPEN, CLOSE = "⟦", "⟧"  # around what is learned, where there are no colours


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="the same words as for train")
    parser.add_argument("--rows", type=int, default=3, metavar="N", help="rows to show of each half (default: 3)")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own groups, as for train")
    parser.add_argument("--json", action="store_true", help="print rows, tokens and figures as JSON")


def run(options: argparse.Namespace) -> None:
    """Load rows and tokenizer, no weights, and show them."""
    from lorascope.compose import compose
    from lorascope.data.summary import summarise
    from lorascope.models.loading import load_tokenizer
    from lorascope.models.quiet import hush
    from lorascope.terminal import console

    config = compose(options.overrides, options.config_dir)
    hush()
    summary = summarise(config.dataset, config.train, load_tokenizer(config.model))
    if options.json:
        print(json.dumps(as_json(summary, options.rows), indent=1, ensure_ascii=False))
    else:
        show_preview(console(), summary, options.rows)


def as_json(summary: Summary, rows: int) -> dict[str, Any]:
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
        "notes": summary.notes,
        "tokens_per_step": summary.tokens_per_step,
        "steps_per_epoch": summary.steps_per_epoch,
        **halves,
    }


def show_preview(out: Console, summary: Summary, rows: int) -> None:
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
