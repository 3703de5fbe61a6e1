"""Read the turns of conversations as OpenAI, ShareGPT, TRL and others write them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lorascope.data.rows import Message

CALL = "a tool call"  # a role of ShareGPT whose content is the call
ROLES = {
    "system": "system", "developer": "developer", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "tool": "tool", "function": "tool", "observation": "tool", "tool_response": "tool",
    "function_call": CALL, "tool_call": CALL,
}  # fmt: skip
OPENING = ("system", "developer")  # roles of a message that stands before the conversation
REASONING = ("reasoning_content", "reasoning", "thinking")  # given to the chat template under the name that it has
WEIGHTS = ("weight", "loss_weight", "train", "training", "trainable", "loss", "supervised")  # of a message
# of a row or a message: images, image_url, video_path, audio
MEDIA = re.compile(r"(image|img|picture|video|audio|sound|speech)s?([_-]?(path|url|uri|file|name|bytes|data)s?)?", re.I)
MASKS = ("mask", "loss_mask", "train_detail")  # which tokens or letters are learned: there is no such thing here
TEXT_PARTS = ("text", "input_text", "output_text")
OF_A_CALL = ("id", "type", "function", "index", "name", "arguments")


class BadRowError(Exception):
    """What is wrong with one row, and what to do if that is not to correct it."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.remedy = remedy


def kind_of(value: Any) -> str:
    """What a value is, for messages."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number", str: "text"}
    return names.get(type(value), type(value).__name__)


def checked_text(value: Any, where: str) -> str:
    """A text that can be learned.

    Raises:
        BadRowError: for null, for spaces, for what is no text, and for half of a surrogate pair.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRowError(f"{where} is empty")
    if not isinstance(value, str):
        raise BadRowError(f"{where} is {kind_of(value)}, not text")
    return valid_text(value, where)


def valid_text(text: str, where: str) -> str:
    """Refuse half of a surrogate pair, which JSON can hold and no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRowError(f"{where} holds half of a character, {text[error.start]!r}") from error
    return text


def is_given(value: Any) -> bool:
    """Whether a column or key says something."""
    return value is not None and value != "" and value != [] and value != {}


def dropping(name: str) -> str:
    """The remedy that leaves a column or a key of messages out."""
    quoted = f'"{name}"' if "[" in name else name
    return f"'dataset.drop=[{quoted}]' leaves it out."


def refuse_media(values: Mapping[str, Any], where: str = "") -> None:
    """Raise a BadRowError for images, videos and sounds.

    Args:
        where: the messages' column with brackets and a dot, for keys of a message.
    """
    for name, value in values.items():
        if is_given(value) and MEDIA.fullmatch(str(name)):
            raise BadRowError(f"it has {name}, and only text is learned", dropping(f"{where}{name}"))


def read_messages(value: Any, column: str) -> list[Message]:
    """The turns of a list of messages.

    Args:
        value: objects with role and content, or with from and value; as JSON text too.
        column: where they stand, for errors.

    Raises:
        BadRowError: naming the message.
    """
    value = _from_json(value, list)
    if value is None or value == []:
        raise BadRowError(f"'{column}' is empty")
    if not isinstance(value, list):
        raise BadRowError(f"'{column}' is {kind_of(value)}, not a list of messages")
    return [_message(turn, f"message {number}", f"{column}[].") for number, turn in enumerate(value, start=1)]


def _from_json(value: Any, *kinds: type) -> Any:
    """What a text holds as JSON, where that is of a kind; else the value."""
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return found if isinstance(found, kinds) else value
    return value


def _message(turn: Any, where: str, column: str) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRowError(f"{where} is {kind_of(turn)}, not an object with role and content")
    written = _either(turn, "role", "from", where)
    role = ROLES.get(written) if isinstance(written, str) else None
    if role is None:
        roles = "system, developer, user, assistant, tool"
        raise BadRowError(f"{where} has the role {str(written)[:40]!r}; roles are {roles}")
    where = f"{where} ({written})"
    refuse_media(turn, column)
    for name in MASKS:
        if is_given(turn.get(name)):
            raise BadRowError(f"{where} has a {name}, and answers are learned as a whole", dropping(column + name))
    content, called = _either(turn, "content", "value", where), role == CALL
    role = "assistant" if called else role
    extra = _extra(turn, role, where)
    if called:
        extra["tool_calls"], content = _calls(_from_json(content, dict, list), where), None
    content = _joined(content, f"the content of {where}")
    if content is None or content == "":
        may_be_empty = role == "tool" or "tool_calls" in extra
        content = "" if may_be_empty else checked_text(content, f"the content of {where}")
    elif "tool_calls" not in extra:
        content = checked_text(content, f"the content of {where}")
    learned = _is_learned(turn, role, where, column)
    return Message(role, content, json.dumps(extra) if extra else "", learned)


def _either(turn: Mapping[str, Any], key: str, other: str, where: str) -> Any:
    """The value of a key or of its other name; Parquet and Arrow hold null where a row lacks one of them."""
    one, two = turn.get(key), turn.get(other)
    if one is not None and two is not None and one != two:
        raise BadRowError(f"{where} has both {key} and {other}, and they differ")
    return two if one is None else one


def _joined(content: Any, where: str) -> Any:
    """Content that is a list of parts as one text, as chat templates join them."""
    if not isinstance(content, list):
        return content
    texts = []
    for number, part in enumerate(content, start=1):
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type", "text" if "text" in part else None) if isinstance(part, Mapping) else kind_of(part)
        if kind not in TEXT_PARTS:
            raise BadRowError(f"part {number} of {where} is of the type {kind}, and only text is learned")
        texts.append(checked_text(part.get("text") or None, f"part {number} of {where}"))
    return "".join(texts)


def _extra(turn: Mapping[str, Any], role: str, where: str) -> dict[str, Any]:
    """What else the chat template is given."""
    extra: dict[str, Any] = {}
    calls = turn.get("tool_calls")
    if is_given(turn.get("function_call")):  # OpenAI's older name
        if is_given(calls):
            raise BadRowError(f"{where} has both tool_calls and function_call")
        calls = [turn["function_call"]]
    if is_given(calls):
        if role != "assistant":
            raise BadRowError(f"{where} has tool calls, which only the assistant makes")
        extra["tool_calls"] = _calls(_from_json(calls, list), where)
    for name in REASONING:
        if is_given(turn.get(name)):
            if role != "assistant":
                raise BadRowError(f"{where} has {name}, which only the assistant writes")
            extra[name] = checked_text(turn[name], f"the {name} of {where}")
    for name in ("name", "tool_call_id") if role == "tool" else ():
        if is_given(turn.get(name)):
            extra[name] = checked_text(turn[name], f"the {name} of {where}")
    return extra


def _calls(value: Any, where: str) -> list[dict[str, Any]]:
    """Tool calls as chat templates take them, arguments as an object."""
    calls = value if isinstance(value, list) else [value]
    return [_call(one, f"tool call {number} of {where}") for number, one in enumerate(calls, start=1)]


def _call(value: Any, where: str) -> dict[str, Any]:
    value = _from_json(value, dict)
    inner = value.get("function", value) if isinstance(value, Mapping) else value
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str) or not inner["name"].strip():
        raise BadRowError(f"{where} is no object with name and arguments")
    strange = [name for part in (value, inner) for name in part if name not in OF_A_CALL and is_given(part[name])]
    if strange:
        raise BadRowError(f"{where} has the key {strange[0]!r}; a call has name and arguments")
    if value.get("type", "function") not in ("function", None):
        raise BadRowError(f"{where} is of the type {value['type']!r}, not function")
    given = inner.get("arguments")
    arguments = _from_json(given, dict) if is_given(given) else {}
    if not isinstance(arguments, Mapping):
        what = "are not a JSON object" if isinstance(arguments, str) else f"are {kind_of(arguments)}, not an object"
        raise BadRowError(f"the arguments of {where} {what}")
    call = {"type": "function", "function": {"name": inner["name"], "arguments": arguments}}
    return call | ({"id": value["id"]} if is_given(value.get("id")) else {})


def _is_learned(turn: Mapping[str, Any], role: str, where: str, column: str) -> bool:
    """Whether a message's weight lets its answer be learned."""
    learned = True
    for name in WEIGHTS:
        weight = turn.get(name)
        if weight is None:
            continue
        if weight not in (0, 1) or (weight and role != "assistant"):
            why = "which must be 0 or 1" if role == "assistant" else "and only answers are learned"
            raise BadRowError(f"{where} has the {name} {weight!r}, {why}", dropping(column + name))
        learned = learned and bool(weight)
    return learned


def read_history(value: Any, column: str) -> list[Message]:
    """Earlier turns: pairs of a question and its answer, or messages.

    Raises:
        BadRowError: for anything else.
    """
    value = _from_json(value, list)
    if not is_given(value):
        return []
    if isinstance(value, list) and all(isinstance(one, Mapping) for one in value):
        return read_messages(value, column)
    turns = []
    for number, pair in enumerate(value if isinstance(value, list) else [value], start=1):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            what = f"turn {number} of '{column}' is not a pair of a question and its answer"
            raise BadRowError(what, dropping(column))
        for role, text in zip(("user", "assistant"), pair, strict=True):
            turns.append(Message(role, checked_text(text, f"turn {number} of '{column}' ({role})")))
    return turns


def read_tools(value: Any, column: str) -> str:
    """The descriptions of tools as JSON text that a chat template takes; empty for none.

    Args:
        value: a list, or its JSON text, of functions or of objects with a function.

    Raises:
        BadRowError: naming the tool.
    """
    value = _from_json(value, list, dict)
    if not is_given(value):
        return ""
    tools = []
    for number, tool in enumerate(value if isinstance(value, list) else [value], start=1):
        tool = _from_json(tool, dict)
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadRowError(f"tool {number} of '{column}' is no object with a name", dropping(column))
        if function is tool:  # without the object around it
            function = {name: one for name, one in tool.items() if name != "type"}
            tool = {"type": tool.get("type") or "function", "function": function}
        if tool.get("type", "function") != "function":
            raise BadRowError(f"tool {number} of '{column}' is of the type {tool['type']!r}, not function")
        tools.append(tool if "type" in tool else {"type": "function"} | dict(tool))
    return json.dumps(tools)


def unused_keys(value: Any, column: str) -> set[str]:
    """The keys of messages that never reach the model, as `messages[].name`."""
    value = _from_json(value, list)
    known = {"role", "from", "content", "value", "tool_calls", "function_call", *REASONING, *WEIGHTS, *MASKS}
    found = set()
    for turn in value if isinstance(value, list) else ():
        if isinstance(turn, Mapping):
            role = _either(turn, "role", "from", "a message")
            more = ("name", "tool_call_id") if isinstance(role, str) and ROLES.get(role) == "tool" else ()
            found |= {key for key, one in turn.items() if key not in known and key not in more and is_given(one)}
    return {f"{column}[].{key}" for key in found}


def conversation(turns: Sequence[Message], system: str) -> tuple[Message, ...]:
    """The turns up to the last answer that is learned, with a system message where they have none.

    Raises:
        BadRowError: when nothing of them would be learned.
    """
    turns = list(turns)
    if turns[0].role not in OPENING and system:
        turns.insert(0, Message("system", system))
    if not any(turn.role == "assistant" for turn in turns):
        raise BadRowError("no message is the assistant's, so nothing would be learned")
    if turns[-1].role != "assistant":
        raise BadRowError(f"it ends with a message of the {turns[-1].role}, so its last answer is missing")
    learned = [place for place, turn in enumerate(turns) if turn.role == "assistant" and turn.learned]
    if not learned:
        raise BadRowError("every answer has the weight 0, so nothing would be learned")
    return tuple(turns[: learned[-1] + 1])  # what follows is not seen by any answer


def not_learned(turns: Iterable[Message]) -> list[Message]:
    """The same turns as context of an answer that follows."""
    return [turn._replace(learned=False) if turn.role == "assistant" else turn for turn in turns]
