"""Infer a data set's format from its columns and check every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lorascope.data.prompts import Template
from lorascope.data.rows import Message, Row, exchange
from lorascope.errors import ConfigError, DataError

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
ANSWERS = ("completion", "response", "answer", "output", "label")  # beside a prompt made of columns


class BadRowError(Exception):
    """What is wrong with one row."""


@dataclass(frozen=True)
class Said:
    """What the user says of the columns, where their names do not tell."""

    columns: Mapping[str, str] = field(default_factory=dict)  # field, or name in the template -> column
    template: Template | None = None  # the question, made of columns
    key: str = "dataset.columns"  # the setting, for errors


@dataclass(frozen=True)
class Shape:
    """How rows are read: a name for the user, field -> column, and what makes question and answer of them."""

    name: str
    columns: dict[str, str]
    template: Template | None = None
    labels: tuple[str, ...] = ()  # the answer's classes: a whole number in its column is one's place among them


def check_fields(said: Said) -> None:
    """Refuse a field that no shape has.

    Raises:
        ConfigError: naming those that there are.
    """
    fields = FIELDS if said.template is None else ("completion", "system", *said.template.names)
    for name in said.columns:
        if name not in fields:
            raise ConfigError(f"{said.key}.{name}", "there is no such field.", f"Fields are: {', '.join(fields)}.")


def find_shape(present: set[str], said: Said, place: str) -> Shape:
    """The shape of rows that have the columns `present`.

    Args:
        said: of the columns; nothing lets the names decide.
        place: the file, for errors.

    Raises:
        DataError: naming the columns that there are, and the remedy.
    """
    check_fields(said)
    mapping = said.columns
    for name, column in mapping.items():
        if column not in present:
            raise DataError(
                f"{said.key}.{name}={column}", f"{place} has no such column.", f"It has: {_listed(present)}."
            )
    if said.template is not None:
        return _made_of_columns(present, said, said.template, place)
    known = {name: name for name in present} | dict(mapping)
    if mapping:  # what was said counts before what the names suggest
        known = dict(mapping) | {name: name for name in present - set(mapping.values()) if name in ("system", "input")}
    for name, needed, optional in SHAPES:
        if all(one in known for one in needed):
            return Shape(name, {one: known[one] for one in (*needed, *optional) if one in known})
    raise DataError(
        place,
        f"its columns tell no shape: {_listed(present)}.",
        f"Say which is which: {said.key}='{{prompt: COLUMN, completion: COLUMN}}' "
        "(or messages, text, or instruction, input and output).",
    )


def _made_of_columns(present: set[str], said: Said, template: Template, place: str) -> Shape:
    """A question out of the template's columns, and the answer's column."""
    for name in template.names:
        if said.columns.get(name, name) not in present:
            raise DataError(
                f"dataset.prompt: {{{name}}}", f"{place} has no such column.", f"It has: {_listed(present)}."
            )
    answer = said.columns.get("completion") or next((name for name in ANSWERS if name in present), None)
    if answer is None:
        raise DataError(
            place,
            f"no column is told to be the answer: {_listed(present)}.",
            f"Say which: {said.key}='{{completion: COLUMN}}'",
        )
    columns = {"completion": answer}
    if system := said.columns.get("system") or ("system" if "system" in present - set(template.names) else None):
        columns["system"] = system
    return Shape("a prompt made of columns", columns, template.renamed(said.columns))


def classes(names: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes.

    Raises:
        ConfigError: for one that is empty, or stands there twice.
    """
    for number, name in enumerate(names):
        if not str(name).strip() or str(name) in map(str, names[:number]):
            what = f"'{name}' stands there twice." if str(name).strip() else "a class has no name."
            raise ConfigError(
                "dataset.labels", what, "Name each class once, in the order of its number: [negative,positive]"
            )
    return tuple(str(name) for name in names)


def to_row(raw: Mapping[str, Any], shape: Shape, system: str | None, group: str | None, place: str) -> Row:
    """One checked row.

    Raises:
        BadRowError: telling what is wrong with it.
    """
    get = {name: raw.get(column) for name, column in shape.columns.items()}
    key = _group(raw, group)
    said = system or ("" if not get.get("system") else _text(raw, shape.columns["system"]))
    if shape.name == "messages":
        column = shape.columns.get("messages") or shape.columns["conversations"]
        return Row(messages=_messages(raw.get(column), column, said), every_answer=True, group=key, place=place)
    if shape.name == "text":
        return Row(text=_text(raw, shape.columns["text"]), group=key, place=place)
    if shape.template is not None:
        answer = shape.columns["completion"]
        asked = {column: _text(raw, column, numbers=True) for column in shape.template.names}
        return exchange(shape.template.render(asked), _answer(raw, answer, shape.labels), said, key, place)
    question, answer = (shape.columns[one] for one in _question_and_answer(shape))
    prompt = _text(raw, question)
    for extra in ("input", "context"):
        if get.get(extra) not in (None, ""):
            prompt = f"{prompt}\n\n{_text(raw, shape.columns[extra])}"
    return exchange(prompt, _answer(raw, answer, shape.labels), said, key, place)


def answer_column(shape: Shape) -> str | None:
    """The column that the answer stands in; None where conversations or texts are learned."""
    if shape.name in ("messages", "text"):
        return None
    return shape.columns["completion" if shape.template else _question_and_answer(shape)[1]]


def _answer(raw: Mapping[str, Any], column: str, labels: tuple[str, ...]) -> str:
    """The answer's text: where there are classes, the name of one of them."""
    if not labels:
        return _text(raw, column)
    if isinstance(raw.get(column), bool):
        raw = {column: int(raw[column])}
    value = _text(raw, column, numbers=True).strip()
    if value in labels:
        return value
    if not value.isascii() or not value.isdigit() or int(value) >= len(labels):
        names = ", ".join(labels[:8]) + (" …" if len(labels) > 8 else "")
        raise BadRowError(f"'{column}' is {value}, which is none of the {len(labels)} classes ({names})")
    return labels[int(value)]


def _question_and_answer(shape: Shape) -> tuple[str, str]:
    question = next(one for one in ("prompt", "question", "instruction") if one in shape.columns)
    answer = next(one for one in ("completion", "response", "answer", "output") if one in shape.columns)
    return question, answer


def _text(raw: Mapping[str, Any], column: str, *, numbers: bool = False) -> str:
    if column not in raw:
        raise BadRowError(f"'{column}' is missing")
    value = raw[column]
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
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
