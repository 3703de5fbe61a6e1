"""Look at what a chat template makes of the rows, once a run, for what is learned otherwise than one would expect."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from lorascope.data.chat_template import is_marked, template_of
from lorascope.data.rows import Message, Row, Rows
from lorascope.data.tokenization import encode_row, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CLOCK = re.compile(r"strftime_now|\bnow\(")  # what transformers offers to templates


def template_notes(rows: Rows, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Notes on beginnings, ends of turns, generation marks, dates and control tokens."""
    notes = _row_notes(next((row for row in rows.train if row.messages), None), tokenizer)
    if renders_date(tokenizer):
        notes.append("the chat template writes today's date into each row: on another day the tokens are others")
    return [*notes, *_control_tokens(chain(rows.train, rows.eval), tokenizer)]


def renders_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template reads the clock."""
    return bool(CLOCK.search(template_of(tokenizer) or ""))


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The tokenizer's special tokens by id, with those that only its list of added tokens calls so."""
    added = {id: str(token) for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


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


def closing_tokens(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, int]]:
    """Special tokens behind the last token of text, each with its index, in their order."""
    special = special_tokens(tokenizer)
    found: list[tuple[int, int]] = []
    for place in range(len(ids) - 1, -1, -1):
        if ids[place] in special:
            found.insert(0, (ids[place], place))
        elif tokenizer.decode([ids[place]]).strip():
            break
    return found


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
