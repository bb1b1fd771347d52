"""Turns of a conversation as other tools write them, to `Message`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tunesmith.core.types import Message, Role, ToolCall
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.doubled_keys import has_doubled_keys, object_of

_FUNCTION_CALL = "function_call"
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
}
_CALL_ROLES = frozenset({_FUNCTION_CALL, "tool_call"})
_NEXT: Mapping[str, frozenset[str]] = {
    "system": frozenset({"user"}),
    "user": frozenset({"assistant"}),
    "assistant": frozenset({"user", "tool"}),
    "tool": frozenset({"tool", "assistant"}),
}


@dataclass(frozen=True)
class TurnKeys:
    """Under which keys a file keeps the role and the words, and what it calls the roles besides the usual."""

    role: tuple[str, ...] = ("role", "from")
    content: tuple[str, ...] = ("content", "value")
    names: Mapping[str, str] = field(default_factory=dict)
    """A name of this file to one of the usual names."""


USUAL_KEYS = TurnKeys()


def read_turns(value: object, keys: TurnKeys = USUAL_KEYS) -> tuple[Message, ...]:
    """A list of turns (or its JSON text). Raises RowDefect."""
    listed = from_text(value)
    if isinstance(listed, Mapping):
        listed = [listed]
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise RowDefect("no_messages")
    if all(isinstance(turn, Mapping) and "human" in turn and "assistant" in turn for turn in listed):
        return tuple(message for pair in listed for message in _pair(pair))
    return tuple(_read_turn(turn, keys) for turn in listed)


def from_text(value: object) -> object:
    """The value of a JSON text (tables keep nested values so); everything else as it is. Raises RowDefect."""
    found = _parsed(value)
    if found is not value and has_doubled_keys(found):
        raise RowDefect("duplicate_key")
    return found


def _parsed(value: object) -> object:
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value, object_pairs_hook=object_of)
        except ValueError:
            return value
    return value


def turns_or_text(value: object) -> object:
    """A list of turns kept as JSON text becomes the list; any other text stays the text, JSON or not.

    Raises RowDefect.
    """
    found = _parsed(value)
    first = found[0] if isinstance(found, list) and found else found
    is_turn = isinstance(first, Mapping) and ("role" in first or "from" in first)
    return from_text(value) if is_turn else value


def _pair(pair: Mapping[str, object]) -> tuple[Message, Message]:
    return Message("user", read_content(pair["human"])), Message("assistant", read_content(pair["assistant"]))


def _read_turn(turn: object, keys: TurnKeys) -> Message:
    if not isinstance(turn, Mapping):
        raise RowDefect("no_messages")
    stated = _first(turn, keys.role)
    if not isinstance(stated, str):
        raise RowDefect("unknown_role")
    name = keys.names.get(stated, stated).strip().lower()
    value = _first(turn, keys.content)
    weight = read_weight(turn)
    if name in _CALL_ROLES:
        return Message("assistant", "", weight, tool_calls=read_calls(value))
    role = _ROLES.get(name)
    if role is None:
        raise RowDefect("unknown_role")
    calls = read_calls(turn["tool_calls"]) if turn.get("tool_calls") else ()
    if not calls and turn.get(_FUNCTION_CALL):
        calls = read_calls(turn[_FUNCTION_CALL])
    if calls and role != "assistant":
        raise RowDefect("bad_tool_call")
    content = "" if value is None and calls else read_content(value)
    thinking = turn.get("reasoning_content")
    if isinstance(thinking, str) and thinking and role == "assistant":
        content = f"<think>\n{thinking}\n</think>\n\n{content}"
    return Message(role, content, weight, calls, _label(turn.get("name")), _label(turn.get("tool_call_id")))


def _first(turn: Mapping[str, object], names: Sequence[str]) -> object:
    return next((turn[name] for name in names if name in turn), None)


def _label(value: object) -> str:
    return value if isinstance(value, str) else ""


def read_content(value: object) -> str:
    """Words of a turn: a text, or a list of text parts set one after the other. Raises RowDefect."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return "".join(_text_part(part) for part in value)
    raise RowDefect("content_not_text")


def _text_part(part: object) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type", "text") in ("text", "input_text", "output_text"):
        text = part.get("text")
        if isinstance(text, str):
            return text
    raise RowDefect("content_not_text")


def read_weight(turn: Mapping[str, object]) -> float | None:
    """`weight` (0 to 1), `train` or `loss` (also true and false); they must not contradict each other."""
    stated = {_one_weight(turn[name]) for name in ("weight", "train", "loss") if turn.get(name) is not None}
    if len(stated) > 1:
        raise RowDefect("bad_weight")
    return stated.pop() if stated else None


def _one_weight(value: object) -> float:
    if isinstance(value, bool | int | float) and 0 <= value <= 1:  # false for what is no number
        return float(value)
    raise RowDefect("bad_weight")


def read_calls(value: object) -> tuple[ToolCall, ...]:
    """Calls of functions: OpenAI's nesting, or plain {name, arguments}, one or a list, or their JSON text."""
    listed = from_text(value)
    if isinstance(listed, Mapping):
        listed = [listed]
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise RowDefect("bad_tool_call")
    return tuple(_read_call(call) for call in listed)


def _read_call(call: object) -> ToolCall:
    if not isinstance(call, Mapping):
        raise RowDefect("bad_tool_call")
    function = call.get("function", call)
    if not isinstance(function, Mapping):
        raise RowDefect("bad_tool_call")
    name = function.get("name")
    arguments = function.get("arguments", function.get("parameters", {}))
    if not isinstance(name, str) or not name:
        raise RowDefect("bad_tool_call")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(name, arguments, _label(call.get("id")))


def read_tools(value: object) -> str:
    """The functions on offer, as JSON text of OpenAI's list; "" when there are none. Raises RowDefect."""
    listed = from_text(value)
    if listed is None or listed == [] or (isinstance(listed, str) and not listed.strip()):
        return ""
    if isinstance(listed, Mapping):
        listed = [listed]
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        raise RowDefect("bad_tools")
    return json.dumps([_wrapped(tool) for tool in listed], ensure_ascii=False)


def _wrapped(tool: object) -> object:
    """A bare {name, parameters} in the nesting that chat templates expect."""
    tool = from_text(tool)
    if not isinstance(tool, Mapping):
        raise RowDefect("bad_tools")
    function = tool.get("function", tool if "type" not in tool or "name" in tool else None)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowDefect("bad_tools")
    return tool if "function" in tool else {"type": "function", "function": function}


def check_prompt(messages: Sequence[Message]) -> None:
    """Turns follow each other as templates take them: system first, then user and assistant in turn.

    Raises RowDefect.
    """
    if not messages:
        raise RowDefect("empty_prompt")
    if messages[0].role not in ("system", "user"):
        raise RowDefect("assistant_first" if messages[0].role == "assistant" else "role_order")
    for before, after in itertools.pairwise(messages):
        several_calls = before.role == after.role == "assistant" and before.tool_calls and after.tool_calls
        if after.role not in _NEXT[before.role] and not several_calls:
            raise RowDefect("same_role_twice" if before.role == after.role else "role_order")
    if not any(turn.content.strip() for turn in messages if turn.role == "user"):
        raise RowDefect("empty_prompt")


def check_answer(answer: Sequence[Message]) -> None:
    """The last turn is the assistant's and says or calls something. Raises RowDefect."""
    if not answer or answer[-1].role != "assistant":
        raise RowDefect("no_assistant")
    if not answer[-1].content.strip() and not answer[-1].tool_calls:
        raise RowDefect("empty_answer")
