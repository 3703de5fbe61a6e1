"""Infer a data set's format from its columns and check every row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lorascope.config.schema import DatasetConfig
from lorascope.data.prompts import Template, read_template
from lorascope.data.rows import Message, Row, exchange
from lorascope.errors import ConfigError, DataError

ROLES = {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}
# A format's name, its content, its answer and what may follow the content. The first that fits is taken.
FORMATS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("messages", "messages", "", ()),
    ("messages", "conversations", "", ()),
    ("prompt and completion", "prompt", "completion", ()),
    ("prompt and completion", "prompt", "response", ()),
    ("prompt and completion", "question", "answer", ()),
    ("instruction, input and output", "instruction", "output", ("input",)),
    ("instruction, input and output", "instruction", "response", ("input", "context")),
    ("text", "text", "", ()),
)
FIELDS = ("prompt", "completion", "instruction", "input", "output", "messages", "text", "system")
ANSWERS = ("completion", "response", "answer", "output", "label")  # beside a prompt made of columns
CLASSES = ("label", "labels", "class", "category", "sentiment", "intent", "topic", "target")  # beside a text


class BadRowError(Exception):
    """What is wrong with one row."""


class ColumnSettings(NamedTuple):
    """What the settings say about the columns of a split."""

    columns: Mapping[str, str]  # field, or name in the template -> column
    template: Template | None  # makes the prompt of columns
    key: str  # the setting, for errors


class RowFormat(NamedTuple):
    """Which columns of a row are read, and how."""

    name: str
    content: str  # the column of the prompt, the text or the messages
    answer: str = ""  # none for texts and messages
    context: tuple[str, ...] = ()  # appended to the prompt where they are not empty
    system: str | None = None
    template: Template | None = None  # makes the prompt in place of `content`
    labels: tuple[str, ...] = ()  # the classes
    by_index: bool = False  # every answer is an index into the classes; else every answer is the name of one


def column_settings(dataset: DatasetConfig, *, evaluation: bool = False) -> ColumnSettings:
    """The column settings of a split; a ConfigError for a field that no format has."""
    template = read_template(dataset.prompt) if dataset.prompt else None
    key = "eval_columns" if evaluation and dataset.eval_columns else "columns"
    settings = ColumnSettings(getattr(dataset, key), template, f"dataset.{key}")
    fields = ("completion", "system", *template.names) if template else FIELDS
    for name in settings.columns:
        if name not in fields:
            raise ConfigError(f"{settings.key}.{name}", "there is no such field.", f"Fields are: {', '.join(fields)}.")
    return settings


def infer_format(present: set[str], settings: ColumnSettings, place: str, labels: Sequence[str] = ()) -> RowFormat:
    """The format of rows that have the columns `present`.

    Args:
        settings: where they name no columns, the columns' own names decide.
        place: the file, for errors.
        labels: the classes of the answers, if any.

    Raises:
        DataError: naming the columns that there are, and the remedy.
    """
    for name, column in settings.columns.items():
        require_column(column, present, f"{settings.key}.{name}={column}", place)
    found = _with_template(present, settings, settings.template, place) if settings.template else None
    found = found or _by_names(present, settings, place)
    if labels and not found.answer:
        raise DataError("dataset.labels", f"rows read as {found.name} have no classes.", "Leave the labels out.")
    return found._replace(labels=tuple(labels))


def _by_names(present: set[str], settings: ColumnSettings, place: str) -> RowFormat:
    unused = present - set(settings.columns.values())
    known = {name: name for name in unused if not settings.columns or name in ("system", "input")}
    known |= settings.columns  # what is set counts before what the names suggest
    for name, content, answer, context in FORMATS:
        if content in known and (not answer or answer in known):
            more = tuple(known[one] for one in context if one in known)
            if name == "text" and "text" not in settings.columns and (other := sorted(unused.intersection(CLASSES))):
                raise _no_classes_named(other[0], place)
            system = None if name == "text" else known.get("system")
            return RowFormat(name, known[content], answer and known[answer], more, system)
    raise DataError(
        place,
        f"the format cannot be inferred from its columns: {_listed(present)}.",
        f"Name them: {settings.key}='{{prompt: COLUMN, completion: COLUMN}}' "
        "(or messages, text, or instruction, input and output).",
    )


def _no_classes_named(column: str, place: str) -> DataError:
    return DataError(
        place,
        f"it has the columns text and {column}: is the text learned, or its {column}?",
        f"To classify: dataset.prompt='{{text}}' dataset.columns.completion={column} "
        "(and 'dataset.labels=[NAME,…]' where the column holds numbers). To learn the text: dataset.columns.text=text",
    )


def _with_template(present: set[str], settings: ColumnSettings, template: Template, place: str) -> RowFormat:
    columns = settings.columns
    for name in template.names:
        require_column(columns.get(name, name), present, f"dataset.prompt: {{{name}}}", place)
    answer = columns.get("completion") or next((name for name in ANSWERS if name in present), None)
    if answer is None:
        what = f"no column is named as the answer: {_listed(present)}."
        raise DataError(place, what, f"Name it: {settings.key}='{{completion: COLUMN}}'")
    system = columns.get("system") or ("system" if "system" in present - set(template.names) else None)
    return RowFormat("a prompt made of columns", "", answer, system=system, template=template.renamed(columns))


def require_column(column: str, present: set[str], key: str, place: str) -> None:
    """Raise a DataError that names the setting `key`, unless `column` is among those of the file."""
    if column not in present:
        raise DataError(key, f"{place} has no such column.", f"It has: {_listed(present)}.")


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(map(str, names))) or "none"


def to_row(raw: Mapping[str, Any], form: RowFormat, system: str | None, group: str | None, place: str) -> Row:
    """One checked row.

    Args:
        raw: column -> value.
        system: a system message for rows that have none of their own.
        group: the column whose values are not divided by the split.
        place: file and number.

    Raises:
        BadRowError: when a value is missing or cannot be learned from.
    """
    key = "" if group is None else _group(raw, group)
    system = (_column(raw, form.system) if form.system and raw.get(form.system) else system) or ""
    if form.name == "messages":
        messages = _messages(raw.get(form.content), form.content, system)
        return Row(messages=messages, every_answer=True, group=key, place=place)
    if form.name == "text":
        return Row(text=_column(raw, form.content), group=key, place=place)
    if form.template:
        prompt = form.template.render({name: _column(raw, name, numbers=True) for name in form.template.names})
    else:
        context = (column for column in form.context if raw.get(column) not in (None, ""))
        prompt = "\n\n".join(_column(raw, column) for column in (form.content, *context))
    return exchange(prompt, _answer(raw, form), system, key, place)


def _answer(raw: Mapping[str, Any], form: RowFormat) -> str:
    if not form.labels:
        return _column(raw, form.answer)
    value = raw.get(form.answer)
    name, index = class_name(value, form.labels), class_index(value, form.labels)
    if form.by_index and index is not None:
        return form.labels[index]
    if not form.by_index and name is not None:
        return name
    _column({form.answer: value if isinstance(value, str | None) else str(value)}, form.answer)
    names = ", ".join(form.labels[:8]) + (" …" if len(form.labels) > 8 else "")
    how = "by index" if form.by_index else "by name"
    raise BadRowError(f"'{form.answer}' is {value}, which is none of the {len(form.labels)} classes ({names}), {how}")


def class_name(value: Any, labels: Sequence[str]) -> str | None:
    """The class that a value names: its text, or for true, false and numbers what is written so."""
    if isinstance(value, str) and value.strip() in labels:
        return value.strip()
    value = _switch(value)
    if isinstance(value, bool):
        return next((label for label in labels if label.casefold() == str(value).casefold()), None)
    if isinstance(value, int | float):
        return next((label for label in labels if _number(label) == value), None)
    return None


def class_index(value: Any, labels: Sequence[str]) -> int | None:
    """The class that a value counts to from 0; true and false count where there are two."""
    value = _switch(value)
    if isinstance(value, bool):
        return int(value) if len(labels) == 2 else None
    number = _number(value) if isinstance(value, str) else value
    if not isinstance(number, int | float) or number != number // 1 or not 0 <= number < len(labels):
        return None
    return int(number)


def counts_classes(values: Sequence[Any], labels: Sequence[str]) -> bool:
    """Whether a column's values are indices of classes, not names.

    Never where a class looks like a value that could be an index, nor where one value is the name of a class.
    """
    if any(_number(label) is not None or label.casefold() in ("true", "false") for label in labels):
        return False
    named = any(class_name(value, labels) is not None for value in values)
    return not named and any(class_index(value, labels) is not None for value in values)


def _switch(value: Any) -> Any:
    """True or false where a text says so, as a CSV file does."""
    return {"true": True, "false": False}.get(value.strip().casefold(), value) if isinstance(value, str) else value


def _number(text: str) -> float | None:
    """The number that a text is, written in digits; None for other texts."""
    return float(text) if re.fullmatch(r"\s*[-+]?[0-9]+(\.[0-9]*)?\s*", text) else None


def _group(raw: Mapping[str, Any], column: str) -> str:
    if raw.get(column) in (None, ""):
        raise BadRowError(f"the group column '{column}' is empty")
    return _valid(str(raw[column]), f"the group column '{column}'")


def _column(raw: Mapping[str, Any], column: str, *, numbers: bool = False) -> str:
    if column not in raw:
        raise BadRowError(f"'{column}' is missing")
    value = raw[column]
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    return _text(value, f"'{column}'")


def _text(value: Any, where: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRowError(f"{where} is empty")
    if not isinstance(value, str):
        raise BadRowError(f"{where} is {_kind(value)}, not text")
    return _valid(value, where)


def _valid(text: str, where: str) -> str:
    """Refuse half of a surrogate pair, which JSON can hold and no tokenizer takes."""
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
        role = _either(turn, "role", "from")
        if not isinstance(role, str) or role not in ROLES:
            raise BadRowError(f"message {number} has the role {str(role)[:40]!r}; roles are system, user, assistant")
        content = _either(turn, "content", "value")
        turns.append(Message(ROLES[role], _text(content, f"the content of message {number} ({role})")))
    if system and turns[0].role != "system":
        turns.insert(0, Message("system", system))
    if not any(turn.role == "assistant" for turn in turns):
        raise BadRowError("no message is the assistant's, so nothing would be learned")
    if turns[-1].role != "assistant":
        raise BadRowError(f"it ends with a message of the {turns[-1].role}, so its last answer is missing")
    return tuple(turns)


def _either(turn: Mapping[str, Any], key: str, other: str) -> Any:
    """The value of a key or of its other name; Parquet and Arrow hold null where a row lacks one of them."""
    return turn.get(other) if turn.get(key) is None else turn[key]


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number", str: "text"}
    return names.get(type(value), type(value).__name__)
