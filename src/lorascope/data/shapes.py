"""A raw row of a file or hub data set becomes a `Row`: its shape is found by its columns, its values are checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorascope.data.rows import Message, Row, exchange
from lorascope.errors import DataError

ROLES = {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}
# A shape's name, the fields it needs, and those it may have. The first that fits is taken.
SHAPES = (
    ("messages", ("messages",), ("system",)),
    ("messages", ("conversations",), ("system",)),
    ("prompt and completion", ("prompt", "completion"), ("system",)),
    ("prompt and completion", ("prompt", "response"), ("system",)),
    ("prompt and completion", ("question", "answer"), ("system",)),
    ("instruction, input and output", ("instruction", "output"), ("input", "system")),
    ("instruction, input and output", ("instruction", "response"), ("input", "context", "system")),
    ("text", ("text",), ()),
)
FIELDS = ("prompt", "completion", "instruction", "input", "output", "messages", "text", "system")


class BadRowError(Exception):
    """What is wrong with one row."""


@dataclass(frozen=True)
class Shape:
    """How rows are read: a name for the user, and field -> column."""

    name: str
    columns: dict[str, str]


def find_shape(present: set[str], mapping: Mapping[str, str], place: str) -> Shape:
    """The shape of rows that have the columns `present`.

    Args:
        mapping: field -> column, from `dataset.columns`; an empty one lets the names decide.
        place: the file, for errors.

    Raises:
        DataError: naming the columns that there are, and the remedy.
    """
    for field, column in mapping.items():
        if field not in FIELDS:
            raise DataError(f"dataset.columns.{field}", "there is no such field.", f"Fields are: {', '.join(FIELDS)}.")
        if column not in present:
            raise DataError(
                f"dataset.columns.{field}={column}", f"{place} has no such column.", f"It has: {_listed(present)}."
            )
    known = {name: name for name in present} | dict(mapping)
    if mapping:  # what was said counts before what the names suggest
        known = dict(mapping) | {name: name for name in present - set(mapping.values()) if name in ("system", "input")}
    for name, needed, optional in SHAPES:
        if all(field in known for field in needed):
            return Shape(name, {field: known[field] for field in (*needed, *optional) if field in known})
    raise DataError(
        place,
        f"its columns tell no shape: {_listed(present)}.",
        "Say which is which: dataset.columns='{prompt: COLUMN, completion: COLUMN}' "
        "(or messages, text, or instruction, input and output).",
    )


def to_row(raw: Mapping[str, Any], shape: Shape, system: str | None, group: str | None, place: str) -> Row:
    """One checked row.

    Raises:
        BadRowError: telling what is wrong with it.
    """
    get = {field: raw.get(column) for field, column in shape.columns.items()}
    key = _group(raw, group)
    said = system or ("" if not get.get("system") else _text(raw, shape.columns["system"]))
    if shape.name == "messages":
        column = shape.columns.get("messages") or shape.columns["conversations"]
        return Row(messages=_messages(raw.get(column), column, said), every_answer=True, group=key, place=place)
    if shape.name == "text":
        return Row(text=_text(raw, shape.columns["text"]), group=key, place=place)
    question, answer = (shape.columns[field] for field in _question_and_answer(shape))
    prompt = _text(raw, question)
    for extra in ("input", "context"):
        if get.get(extra) not in (None, ""):
            prompt = f"{prompt}\n\n{_text(raw, shape.columns[extra])}"
    return exchange(prompt, _text(raw, answer), said, key, place)


def _question_and_answer(shape: Shape) -> tuple[str, str]:
    question = next(field for field in ("prompt", "question", "instruction") if field in shape.columns)
    answer = next(field for field in ("completion", "response", "answer", "output") if field in shape.columns)
    return question, answer


def _text(raw: Mapping[str, Any], column: str) -> str:
    if column not in raw:
        raise BadRowError(f"'{column}' is missing")
    value = raw[column]
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRowError(f"'{column}' is empty")
    if not isinstance(value, str):
        raise BadRowError(f"'{column}' is {_kind(value)}, not text")
    return _whole(value, f"'{column}'")


def _whole(text: str, where: str) -> str:
    """The text, unless it holds a half of a character (JSON can write one), which no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRowError(f"{where} holds half of a character, {text[error.start]!r}") from error
    return text


def _messages(value: Any, column: str, system: str) -> tuple[Message, ...]:
    """Turns as OpenAI writes them (role, content) or as ShareGPT does (from, value)."""
    if value is None or value == []:
        raise BadRowError(f"'{column}' is empty")
    if not isinstance(value, list):
        raise BadRowError(f"'{column}' is {_kind(value)}, not a list of messages")
    turns = []
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, Mapping):
            raise BadRowError(f"message {number} is {_kind(turn)}, not an object with role and content")
        role = turn.get("role", turn.get("from"))
        if not isinstance(role, str) or role not in ROLES:
            raise BadRowError(f"message {number} has the role {str(role)[:40]!r}; roles are system, user, assistant")
        content = turn.get("content", turn.get("value"))
        if not isinstance(content, str) or not content.strip():
            what = "empty" if content is None or content == "" or isinstance(content, str) else _kind(content)
            raise BadRowError(f"the content of message {number} ({role}) is {what}")
        turns.append(Message(ROLES[role], _whole(content, f"the content of message {number} ({role})")))
    if system and turns[0].role != "system":
        turns.insert(0, Message("system", system))
    if not any(turn.role == "assistant" for turn in turns):
        raise BadRowError("no message is the assistant's, so nothing would be learned")
    if turns[-1].role != "assistant":
        raise BadRowError(f"it ends with a message of the {turns[-1].role}, so its last answer is missing")
    return tuple(turns)


def _group(raw: Mapping[str, Any], column: str | None) -> str:
    if column is None:
        return ""
    if raw.get(column) in (None, ""):
        raise BadRowError(f"the group column '{column}' is empty")
    return _whole(str(raw[column]), f"the group column '{column}'")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number", str: "text"}
    return names.get(type(value), type(value).__name__)


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(map(str, names))) or "none"
