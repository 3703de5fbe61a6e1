"""What is to be said of a data set: row lengths before loading, notes, and the card in the record."""

from __future__ import annotations

import dataclasses
import heapq
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from lorascope.config.schema import DatasetConfig
from lorascope.data.chat_template import closing_tokens, is_marked, renders_date, special_tokens, with_template
from lorascope.data.files import content_size
from lorascope.data.messages import OPENING
from lorascope.data.rows import Message, Row, Rows, shared_prompts
from lorascope.data.sources import load_rows
from lorascope.data.tokenization import TokenizedSplit, encode_row, prompt_ids
from lorascope.errors import LorascopeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


MEASURED = 16  # rows that are tokenized for each figure
LARGEST = 32 * 2**20  # bytes of files; reading more than that twice takes too long
LETTERS = 3.5  # of English in a token, where there is no tokenizer
QUANTILES = {"shortest": 0.0, "quarter": 0.25, "median": 0.5, "three_quarters": 0.75, "most": 0.95, "longest": 1.0}


@dataclass(frozen=True)
class Size:
    """How many rows and about how many tokens a data set has."""

    rows: int  # of the train split
    tokens: int
    longest: int | None = None  # tokens of the longest row of both splits, not cut; None without a tokenizer
    supervised: int | None = None  # the most tokens of a row that have a loss


def size_of(dataset: DatasetConfig, tokenizer: PreTrainedTokenizerBase | None) -> Size | None:
    """Measure a data set of this machine; None for one that is elsewhere, large, or cannot be read.

    The rows with most letters, those with most letters in an answer, and some others are tokenized.
    """
    if dataset.source == "hub" or dataset.parts or dataset.streaming:
        return None
    try:
        if dataset.source == "file" and content_size(dataset) > LARGEST:
            return None
        rows = load_rows(dataset)
        tokenizer = tokenizer and with_template(tokenizer, dataset)
        if tokenizer is None:
            return Size(len(rows.train), max(1, round(sum(map(_letters, rows.train)) / LETTERS)))
        every = [*rows.train, *rows.eval]
        most = (row for letters in (_letters, _answer_letters) for row in heapq.nlargest(MEASURED, every, key=letters))
        large = [encode_row(row, tokenizer, row.place) for row in most]
        some = rows.train[:: max(1, len(rows.train) // MEASURED)]
        tokens = sum(len(encode_row(row, tokenizer, row.place).ids) for row in some) / len(some)
    except LorascopeError:
        return None  # the run reports it
    return Size(
        len(rows.train),
        max(1, round(tokens * len(rows.train))),
        max(len(row.ids) for row in large),
        max(sum(row.learned[1:]) for row in large),
    )


def _letters(row: Row) -> int:
    return len(row.text) + sum(len(message.content) + 4 for message in row.messages)  # 4 for the marks of a turn


def _answer_letters(row: Row) -> int:
    return len(row.text) + sum(len(message.content) for message in row.messages if message.role == "assistant")


def data_notes(
    rows: Rows, train: TokenizedSplit, evaluation: TokenizedSplit, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """Notes on skipped rows, prompts in both splits, rows that are cut and answers that are not learned."""
    notes = [*rows.notes]
    if rows.unused:
        notes.append(f"not used: {', '.join(rows.unused)}")
    if skipped := [*rows.skipped, *train.skipped, *evaluation.skipped]:
        what = "bad row is" if len(skipped) == 1 else "bad rows are"
        notes.append(f"{len(skipped)} {what} skipped; the first: {skipped[0]}")
    if shared := shared_prompts(rows):
        first = shared[0].prompt[:60]
        notes.append(f"{len(shared)} of {len(rows.eval)} eval prompts are in the train half too; the first: {first!r}")
    for half, encoded in (("train", train), ("eval", evaluation)):
        if encoded.truncated:
            notes.append(f"{encoded.truncated} of {len(encoded)} {half} rows are cut at train.max_length")
        if encoded.last_answer_only:
            notes.append(
                f"in {encoded.last_answer_only} {half} conversations only the last answer is learned: "
                "the chat template renders the earlier ones in another way once more is said"
            )
    return [*notes, *template_notes(rows, tokenizer)]


def data_card(rows: Rows, train: TokenizedSplit, evaluation: TokenizedSplit) -> dict[str, Any]:
    """Describe a data set for the record, JSON-ready.

    Returns:
        `task`, `origin`, `license`, `split` in words; `unused`, columns that never reach the model;
        `system_messages`, some of the eval rows' own; for each split `rows`, `tokens` and `supervised_tokens`,
        `lengths` in tokens (nearest rank; `most` is the 95th of a hundred), `duplicated_prompts`, the share of rows
        whose prompt came before in this split, and `labels`, rows of each class; for each further set the same without
        tokens.
    """
    return {
        "task": task_of(rows),
        "origin": rows.origin,
        "license": rows.license or None,
        "split": rows.split or None,
        "unused": list(rows.unused),
        "system_messages": system_messages(rows),
        "train": _set(rows.train, rows.labels, train),
        "eval": _set(rows.eval, rows.labels, evaluation),
        "sets": {name: _set(asked, rows.labels_of.get(name, rows.labels)) for name, asked in rows.probes.items()},
    }


MOST_MESSAGES = 3


def system_messages(rows: Rows) -> list[str]:
    """The first few different system messages of the eval conversations; an empty one for those without."""
    found: dict[str, None] = {}
    for row in rows.eval:
        if row.messages and len(found) < MOST_MESSAGES:
            found[row.messages[0].content if row.messages[0].role in OPENING else ""] = None
    return list(found)


def task_of(rows: Rows) -> str:
    """The kinds of rows: classification, texts, conversations or answers."""
    if rows.labels:
        return "classification"
    kinds = {_kind(row) for row in rows.train} | ({"classification"} if rows.labels_of else set())
    return " and ".join(sorted(kinds))


def _kind(row: Row) -> str:
    if not row.messages:
        return "texts"
    return "conversations" if sum(message.role == "assistant" for message in row.messages) > 1 else "answers"


def quantiles(lengths: Iterable[int]) -> dict[str, int]:
    """Lengths that so many rows do not exceed, by nearest rank; empty for no rows."""
    found = sorted(lengths)
    ranks = {name: max(1, math.ceil(share * len(found))) for name, share in QUANTILES.items() if found}
    return {name: found[rank - 1] for name, rank in ranks.items()}


def _set(rows: Sequence[Row], labels: Sequence[str], encoded: TokenizedSplit | None = None) -> dict[str, Any]:
    prompts = {row.normalized_prompt for row in rows}
    duplicated = round(1 - len(prompts) / len(rows), 6) if rows else 0.0
    card: dict[str, Any] = {"rows": len(rows), "duplicated_prompts": duplicated}
    if labels:
        found = Counter(row.completion for row in rows)
        card["labels"] = {label: found[label] for label in labels}
    if encoded:
        card |= {
            "tokens": encoded.tokens,
            "supervised_tokens": encoded.supervised_tokens,
            "lengths": quantiles(map(len, encoded.input_ids)),
        }
    return card


def template_notes(rows: Rows, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Notes on beginnings, ends of turns, generation marks, dates and control tokens."""
    notes = _row_notes(next((row for row in rows.train if row.messages), None), tokenizer)
    if renders_date(tokenizer):
        notes.append("the chat template writes today's date into each row: on another day the tokens are others")
    return [*notes, *_control_tokens(chain(rows.train, rows.eval), tokenizer)]


def _row_notes(row: Row | None, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What one conversation shows of all."""
    if row is None:
        return []
    notes = []
    encoded = encode_row(row, tokenizer, row.place)
    if encoded.ids[:2] == [tokenizer.bos_token_id] * 2:
        notes.append(
            f"each row begins with {tokenizer.bos_token} twice: the template writes one, the tokenizer another"
        )
    special = special_tokens(tokenizer)
    ends = closing_tokens(encoded.ids, tokenizer)
    learned = [token for token, one in ends if encoded.learned[one]]
    if not ends:
        notes.append("the chat template puts no token behind an answer that ends it: the model does not learn to stop")
    elif not learned:
        names = special[ends[0][0]]
        where = "the template's generation marks leave it out" if is_marked(row, tokenizer) else "it is not learned"
        notes.append(f"answers end with {names}, but {where}: the model does not learn to stop")
    elif len(learned) > 1 and learned[0] == learned[1]:
        notes.append(f"each answer teaches its end twice: {special[learned[0]]}{special[learned[0]]}")
    if is_marked(row, tokenizer):
        first = dataclasses.replace(row, messages=_first_exchange(row))
        asked = prompt_ids(first, tokenizer)
        more = asked[encode_row(first, tokenizer, row.place).start :]
        if more:
            notes.append(
                "the template's generation marks cover more than the answer: "
                f"{tokenizer.decode(more)!r} before it is learned too"
            )
    return notes


def _first_exchange(row: Row) -> tuple[Message, ...]:
    """The conversation up to its first answer."""
    first = next(place for place, message in enumerate(row.messages) if message.role == "assistant")
    return row.messages[: first + 1]


def _control_tokens(rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    names = sorted({text for text in special_tokens(tokenizer).values() if text.strip()}, key=len, reverse=True)
    if not names:
        return []
    pattern, found = re.compile("|".join(map(re.escape, names))), []
    for row in rows:
        texts = [message.content for message in row.messages] or [row.text.removesuffix(tokenizer.eos_token or "")]
        if match := next(filter(None, map(pattern.search, texts)), None):
            found.append(f"{row.place} ({match[0]})" if row.place else match[0])
    if not found:
        return []
    what = "row holds a control token" if len(found) == 1 else "rows hold control tokens"
    return [f"{len(found)} {what} of the tokenizer in the text, which the model reads as such; the first: {found[0]}"]
