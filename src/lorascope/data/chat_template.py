"""The chat template of a run: the model's own or a file's, its variables, and whether it shows all of a row."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.config.schema import DatasetConfig
from lorascope.data.messages import REASONING
from lorascope.data.rows import Row
from lorascope.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
NAME = re.compile(r"[A-Za-z_]\w*")
CLOCK = re.compile(r"strftime_now|\bnow\(")  # what transformers offers to templates
# what transformers hands to every template, and this program with each row
GIVEN = ("messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "pad_token", "unk_token")


def check_template(dataset: DatasetConfig) -> None:
    """Raise a ConfigError for a variable that a template cannot be given."""
    for name, value in dataset.template_kwargs.items():
        key = f"dataset.template_kwargs.{name}"
        if not NAME.fullmatch(name) or name in GIVEN:
            raise ConfigError(key, "is not the name of a variable that can be set.", "For example enable_thinking.")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            remedy = "Take true, false, a number, a text, or lists of them."
            raise ConfigError(key, f"cannot be given to a template: {error}.", remedy) from error


def read_chat_template(dataset: DatasetConfig) -> str | None:
    """The text of `dataset.chat_template`, if it is set.

    Raises:
        DataError: when the file cannot be read.
    """
    if dataset.chat_template is None:
        return None
    key = f"dataset.chat_template={dataset.chat_template}"
    try:
        text = Path(os.path.expanduser(dataset.chat_template)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise DataError(key, f"cannot be read: {why}.", "Name a file with a Jinja template.") from error
    if not text.strip():
        raise DataError(key, "is empty.", "Name a file with a Jinja template.")
    return text


def with_template(tokenizer: PreTrainedTokenizerBase, dataset: DatasetConfig) -> PreTrainedTokenizerBase:
    """A tokenizer that renders conversations as the data set's settings say; the same one where they say nothing.

    The variables of `dataset.template_kwargs` are set at the top of the template, so that whoever takes the tokenizer
    renders as in training.

    Raises:
        DataError: when the template cannot be read, is no Jinja, or does not read a variable.
    """
    text = read_chat_template(dataset)
    if text is None and not dataset.template_kwargs:
        return tokenizer
    text = text or template_of(tokenizer)
    if not text:
        what = "the model's tokenizer has no chat template."
        raise DataError("dataset.template_kwargs", what, "Name one: dataset.chat_template=FILE")
    _check_variables(text, dataset)
    values = (f"{name} = {_jinja(value)}" for name, value in dataset.template_kwargs.items())
    changed = copy.copy(tokenizer)
    changed.chat_template = "".join(f"{{%- set {one} -%}}" for one in values) + text
    _check_syntax(changed, dataset)
    return changed


def _check_syntax(tokenizer: PreTrainedTokenizerBase, dataset: DatasetConfig) -> None:
    from jinja2 import TemplateError, TemplateSyntaxError

    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}])
    except TemplateSyntaxError as error:
        place = f"dataset.chat_template={dataset.chat_template}, line {error.lineno}"
        raise DataError(place, f"is not a Jinja template: {error.message}.", "Correct the file.") from error
    except (TemplateError, TypeError, ValueError):
        return  # it refuses this conversation; what it makes of the rows is seen with them


def _check_variables(text: str, dataset: DatasetConfig) -> None:
    """Raise a DataError for a variable that the template never names."""
    known = sorted(set(re.findall(r"(\w+) is (?:not )?defined", text)) - {*GIVEN})
    for name in dataset.template_kwargs:
        if not re.search(rf"\b{name}\b", text):
            remedy = f"It asks for: {', '.join(known)}." if known else "See the template for those that it reads."
            raise DataError(f"dataset.template_kwargs.{name}", "the chat template reads no such variable.", remedy)


def _jinja(value: Any) -> str:
    """A value as Jinja writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(name))}: {_jinja(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_jinja, value)) + "]"
    return "none" if value is None else json.dumps(value)


def template_of(tokenizer: PreTrainedTokenizerBase, *, tools: bool = False) -> str | None:
    """The chat template; of several named ones, the one called default, as in transformers; with tools, tool_use."""
    template = tokenizer.chat_template
    if not isinstance(template, dict):
        return template
    return (template.get("tool_use") if tools else None) or template.get("default")


def is_marked(row: Row, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template's generation marks say what of the row is learned."""
    template = template_of(tokenizer, tools=bool(row.tools)) or ""
    return row.every_answer and bool(GENERATION_MARK.search(template))


def rendering(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The turns and the further arguments that `apply_chat_template` takes for a row.

    A developer's message is one of the system where the template does not know that role.
    """
    turns = [message.as_turn() for message in row.messages]
    if "developer" not in (template_of(tokenizer, tools=bool(row.tools)) or ""):
        for turn in turns:
            turn["role"] = "system" if turn["role"] == "developer" else turn["role"]
    return turns, {"tools": json.loads(row.tools)} if row.tools else {}


def check_shown(row: Row, tokenizer: PreTrainedTokenizerBase, place: str) -> None:
    """Refuse a row of which the chat template leaves something out: it is rendered with and without.

    Raises:
        DataError: naming what is left out.
    """
    if not row.tools and not any(message.extra for message in row.messages):
        return
    if not tokenizer.chat_template:
        remedy = "Name one: dataset.chat_template=FILE"
        raise DataError(place, "it has tools, and the model's tokenizer has no chat template to show them.", remedy)
    whole = _text(row, tokenizer)
    if whole is None:
        return  # the template says why when the row is tokenized
    for what, drop, less in _less(row):
        if _text(less, tokenizer) == whole:
            name = Path(tokenizer.name_or_path).name
            remedy = "Take a model whose template shows them, or dataset.chat_template=FILE"
            remedy += f"; or train without: 'dataset.drop=[{drop}]'" if drop else ""
            raise DataError(place, f"the chat template{f' of {name}' if name else ''} leaves out {what}.", remedy)


def _less(row: Row) -> Iterator[tuple[str, str, Row]]:
    """What a row has beside text, the column or key that drops it, and the row without it."""
    if row.tools:
        yield "the descriptions of the tools", "COLUMN", replace(row, tools="")
    for number, message in enumerate(row.messages):
        extra = json.loads(message.extra or "{}")
        for index, call in enumerate(extra.get("tool_calls", ())):
            calls = [*extra["tool_calls"]]
            if call["function"]["arguments"]:
                calls[index] = call | {"function": call["function"] | {"arguments": {}}}
            else:
                del calls[index]
            what = f"the tool call {call['function']['name']} of message {number + 1}"
            yield what, "", _changed(row, number, extra | {"tool_calls": calls})
        if message.role == "tool" and message.content:
            yield f"message {number + 1}, a tool's answer,", "", _changed(row, number, extra, content="")
        if "tool_calls" in extra and message.content:
            yield f"the text beside the tool call of message {number + 1}", "", _changed(row, number, extra, content="")
    for name in REASONING:
        if any(name in json.loads(message.extra or "{}") for message in row.messages):
            less = row
            for number, message in enumerate(row.messages):
                extra = json.loads(message.extra or "{}")
                less = _changed(less, number, {key: value for key, value in extra.items() if key != name})
            yield f"the {name} of its answers", f'"COLUMN[].{name}"', less


def _changed(row: Row, number: int, extra: Mapping[str, Any], content: str | None = None) -> Row:
    message = row.messages[number]
    kept = {name: value for name, value in extra.items() if value != []}
    message = message._replace(extra=json.dumps(kept) if kept else "")
    message = message if content is None else message._replace(content=content)
    return replace(row, messages=(*row.messages[:number], message, *row.messages[number + 1 :]))


def _text(row: Row, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The row as the template renders it; None where the template refuses it."""
    turns, options = rendering(row, tokenizer)
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, **options))
    except Exception:  # a template raises whatever its author chose
        return None


def renders_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template reads the clock."""
    return bool(CLOCK.search(template_of(tokenizer) or ""))


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The tokenizer's special tokens by id, with those that only its list of added tokens calls so."""
    added = {id: str(token) for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


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
