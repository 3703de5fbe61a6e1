"""Infer a data set's format from its columns and check every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lorascope.config.schema import DatasetConfig
from lorascope.data import messages
from lorascope.data.classes import class_index, class_name, switch
from lorascope.data.messages import BadRowError, checked_text, is_given, valid_text
from lorascope.data.prompts import Template, read_template
from lorascope.data.rows import Message, Row
from lorascope.errors import ConfigError, DataError

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
TOOLS, HISTORY = ("tools", "functions"), "history"  # read beside any conversation
JUDGED = ("label", "kto_tag")  # whether an answer is a good one
PREFERENCE = ("chosen", "rejected", "chosen_response", "rejected_response", "rejected_messages")
ROW_WEIGHTS = ("weight", "sample_weight", "loss_weight")
CLASSES = ("label", "labels", "class", "category", "sentiment", "intent", "topic", "target")  # beside a text


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
    tools: tuple[str, ...] = ()
    history: str = ""
    judged: str = ""  # rows with false in it are left out

    @property
    def used(self) -> set[str]:
        """The columns that are read."""
        names = (self.content, self.answer, self.history, self.judged, self.system or "")
        return {*names, *self.context, *self.tools, *(self.template.names if self.template else ())} - {""}


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
    for name, column in settings.columns.items():
        if column not in found.used:
            what = f"is not read: the rows of {place} are read as {found.name}."
            raise DataError(f"{settings.key}.{name}={column}", what, "Name the columns of one format.")
    if found.name != "text":
        left = present - found.used
        tools, judged = (tuple(name for name in names if name in left) for names in (TOOLS, JUDGED))
        history = HISTORY if HISTORY in left else ""
        found = found._replace(tools=tools, history=history, judged="".join(judged[:1]))
    return found._replace(labels=tuple(labels))


def _by_names(present: set[str], settings: ColumnSettings, place: str) -> RowFormat:
    if not settings.columns and (compared := [name for name in PREFERENCE if name in present]):
        raise _preference(compared, present, place)
    found = _first_format(present, settings, place, all_names=not settings.columns)
    # a column that is set may complete what the names of the others tell
    found = found or _first_format(present, settings, place, all_names=True)
    if found:
        return found
    raise DataError(
        place,
        f"the format cannot be inferred from its columns: {_listed(present)}.",
        f"Name them: {settings.key}='{{prompt: COLUMN, completion: COLUMN}}' "
        "(or messages, text, or instruction, input and output).",
    )


def _preference(compared: list[str], present: set[str], place: str) -> DataError:
    if any(content in present for _, content, _, _ in FORMATS[:-1]):
        remedy = f"To train on the good answers: dataset.columns.completion={compared[0]}"
    else:
        remedy = f"To train on the good answers: dataset.columns.messages={compared[0]} (or .text, where they are text)"
    if "rejected" in compared[0]:
        remedy = f"To train on all other columns: 'dataset.drop=[{','.join(compared)}]'"
    what = f"it holds preference data ({', '.join(compared)}), and a run learns one answer a row."
    return DataError(place, what, remedy)


def _first_format(present: set[str], settings: ColumnSettings, place: str, *, all_names: bool) -> RowFormat | None:
    """The first format whose columns are there: those that are set, and by their names some others or all."""
    unused = present - set(settings.columns.values())
    known = {name: name for name in unused if all_names or name in ("system", "input")}
    known |= settings.columns  # what is set counts before what the names suggest
    for name, content, answer, context in FORMATS:
        if content in known and (not answer or answer in known):
            more = tuple(known[one] for one in context if one in known)
            if name == "text" and "text" not in settings.columns and (other := sorted(unused.intersection(CLASSES))):
                raise _no_classes_named(other[0], place)
            system = None if name == "text" else known.get("system")
            column = known[answer] if answer else settings.columns.get("completion", "") if name == "messages" else ""
            return RowFormat(name, known[content], column, more, system)
    return None


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
    _refuse_unread(raw, form)
    if form.name == "text":
        return Row(text=_column(raw, form.content), group=key, place=place)
    turns, every = _turns(raw, form)
    if form.system and raw.get(form.system) and turns[0].role in messages.OPENING and turns[0].content != system:
        raise BadRowError(f"the column '{form.system}' and the first message are different system messages")
    if form.history and (earlier := messages.read_history(raw.get(form.history), form.history)):
        head = [turn for turn in turns[:1] if turn.role in messages.OPENING]
        turns, every = [*head, *earlier, *turns[len(head) :]], True
    tools = [text for name in form.tools if (text := messages.read_tools(raw.get(name), name))]
    if tools[1:]:
        raise BadRowError(
            f"it has both {' and '.join(form.tools)}", f"'dataset.drop=[{form.tools[1]}]' leaves one out."
        )
    return Row(messages.conversation(turns, system), "", every, key, place, tools="".join(tools))


def _refuse_unread(raw: Mapping[str, Any], form: RowFormat) -> None:
    """Raise a BadRowError for columns that would change what is learned, and are not read."""
    others = {name: value for name, value in raw.items() if name not in form.used}
    messages.refuse_media(others)
    for name in ROW_WEIGHTS:
        if is_given(others.get(name)) and others[name] not in (1, "1", "1.0"):
            remedy = messages.dropping(name)
            raise BadRowError(f"it has the {name} {others[name]}, and every row counts once", remedy)
    for name in (*TOOLS, HISTORY) if form.name == "text" else ():
        if is_given(others.get(name)):
            raise BadRowError(f"it has {name}, which a text cannot have", messages.dropping(name))


def is_bad_answer(raw: Mapping[str, Any], form: RowFormat) -> bool:
    """Whether a row says of itself that its answer is not to be learned.

    Raises:
        BadRowError: for a number, which may be something else.
    """
    value = switch(raw.get(form.judged))
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise BadRowError(
            f"'{form.judged}' is {value}: is it a judgement of the answer?",
            f"Then write true or false; else {messages.dropping(form.judged)}",
        )
    return value is False


def without(raw: Any, drop: Sequence[str]) -> Any:
    """A raw row without some columns and keys of messages, which are named as `messages[].name`."""
    if not drop or not isinstance(raw, Mapping):
        return raw
    kept = {name: value for name, value in raw.items() if name not in drop}
    for column, brackets, key in (name.partition("[].") for name in drop):
        if brackets and isinstance(turns := kept.get(column), list):
            kept[column] = [
                {name: value for name, value in turn.items() if name != key} if isinstance(turn, Mapping) else turn
                for turn in turns
            ]
    return kept


def unused_columns(raw: Mapping[str, Any], form: RowFormat, group: str | None) -> set[str]:
    """The columns and keys of messages that say something and never reach the model."""
    found = {str(name) for name, value in raw.items() if name not in form.used and name != group and is_given(value)}
    for column in {form.content, form.answer, form.history} if form.name != "text" else ():
        found |= messages.unused_keys(raw.get(column), column)
    return found


def _turns(raw: Mapping[str, Any], form: RowFormat) -> tuple[list[Message], bool]:
    """The turns of a row without its system column and history, and whether every answer is learned."""
    if form.name == "messages":
        turns = messages.read_messages(raw.get(form.content), form.content)
        if not form.answer:
            return turns, True
    elif _holds_messages(raw.get(form.content)) and not form.template:  # TRL's conversational prompt
        asked = raw[form.content]
        turns = messages.read_messages([asked] if isinstance(asked, Mapping) else asked, form.content)
    else:
        turns = [Message("user", _prompt(raw, form))]
    answer = raw.get(form.answer)
    if _holds_messages(answer) and not form.labels:
        answers = messages.read_messages([answer] if isinstance(answer, Mapping) else answer, form.answer)
        if answers[0].role != "assistant":
            what = f"'{form.answer}' begins with a message of the {answers[0].role}, so it is not an answer"
            remedy = f"If it holds the whole conversation: dataset.columns.messages={form.answer}"
            raise BadRowError(what, remedy)
        return [*messages.not_learned(turns), *answers], True
    many = len(turns) > 1
    return [*messages.not_learned(turns), Message("assistant", _answer(raw, form))], many


def _holds_messages(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, Mapping) and bool({"role", "from"} & first.keys())


def _prompt(raw: Mapping[str, Any], form: RowFormat) -> str:
    if form.template:
        return form.template.render({name: _column(raw, name, numbers=True) for name in form.template.names})
    context = (column for column in form.context if raw.get(column) not in (None, ""))
    return "\n\n".join(_column(raw, column) for column in (form.content, *context))


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


def _group(raw: Mapping[str, Any], column: str) -> str:
    if raw.get(column) in (None, ""):
        raise BadRowError(f"the group column '{column}' is empty")
    return valid_text(str(raw[column]), f"the group column '{column}'")


def _column(raw: Mapping[str, Any], column: str, *, numbers: bool = False) -> str:
    if column not in raw:
        raise BadRowError(f"'{column}' is missing")
    value = raw[column]
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    return checked_text(value, f"'{column}'")
