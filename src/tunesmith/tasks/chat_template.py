"""The chat template: the one that trains is the one that ships.

Everything that turns messages into text goes through here: training, evaluation, the parity gate and the server.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from tunesmith.core.errors import TunesmithError
from tunesmith.core.types import Message, ToolCall
from tunesmith.messages import say
from tunesmith.tasks.limited_template import LimitedTemplate

_PROBE = "probe_of_tool_support"
_MOST_VALUES = 200_000
"""Values in the JSON of tools or arguments, each of which takes far more memory than its text."""
_TOOLS_AS_TEXT = """You may call these functions:
<tools>
{tools}
</tools>
Call one with <tool_call>{{"name": ..., "arguments": ...}}</tool_call>."""


class ChatTemplate:
    """Renders messages with the tokenizer's own template.

    Where the template knows nothing of tools (it would drop them without a word), tools and calls are written into
    the text in the Hermes form: `<tools>` in the system turn, `<tool_call>` and `<tool_response>` in the turns.

    Errors: tasks.no_template, tasks.template_refused, tasks.template_cut for one that reaches a limit with two turns.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not isinstance(tokenizer.chat_template, str) or not tokenizer.chat_template.strip():
            raise TunesmithError("tasks.no_template")
        self.tokenizer = tokenizer
        self.text: str = tokenizer.chat_template
        self._limited = LimitedTemplate(self.text)
        self.knows_tools = self._probe_tools()

    @property
    def sha256(self) -> str:
        """Hash of the template's text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def render(self, messages: Sequence[Message], tools: str = "", *, ask: bool = False) -> str:
        """The conversation as text; with `ask` it ends where the assistant begins to speak.

        Errors: tasks.template_failed with the template's own complaint, tasks.template_cut at a limit.
        """
        if not self.knows_tools:
            messages, tools = write_tools_as_text(messages, tools), ""
        return self._render([_as_dict(message) for message in messages], tools, ask)

    def _render(self, messages: list[dict[str, object]], tools: str, ask: bool) -> str:
        if not messages:
            raise TunesmithError("tasks.template_failed", reason=say("tasks.reason_no_messages"))
        try:
            described = _parse(tools) if tools else None
        except (ValueError, RecursionError) as error:
            raise TunesmithError("tasks.template_failed", reason=str(error)) from error
        # names and values as transformers gives them to a chat template
        given = {
            **self.tokenizer.special_tokens_map,
            "messages": messages,
            "tools": described,
            "documents": None,
            "add_generation_prompt": ask,
        }
        return self._limited.render(given)

    def _probe_tools(self) -> bool:
        call = ToolCall(_PROBE, "{}", "call00000")
        turns = [Message("user", "a"), Message("assistant", "", tool_calls=(call,))]
        try:
            return _PROBE in self._render([_as_dict(turn) for turn in turns], "", False)
        except TunesmithError as error:
            if error.code == "tasks.template_cut":
                raise
            return False


def _as_dict(message: Message) -> dict[str, object]:
    """The form that templates expect; arguments as a table, because templates write them with `tojson`."""
    turn: dict[str, object] = {"role": message.role, "content": message.content}
    if message.name:
        turn["name"] = message.name
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    return turn


def _arguments(text: str) -> object:
    try:
        return _parse(text)
    except (ValueError, RecursionError):
        return text


def _parse(text: str) -> object:
    """The value of a JSON text. Errors: tasks.template_cut; ValueError, RecursionError for what is no JSON."""
    if sum(map(text.count, "[{,")) > _MOST_VALUES:  # at least as many as there are values
        raise TunesmithError("tasks.template_cut", reason=say("tasks.reason_values", values=_MOST_VALUES))
    return json.loads(text)


def tool_call_text(call: ToolCall) -> str:
    """A call in the Hermes form, with the arguments exactly as the row has them."""
    name = json.dumps(call.name, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {name}, "arguments": {call.arguments}}}\n</tool_call>'


def write_tools_as_text(messages: Sequence[Message], tools: str) -> list[Message]:
    """Tools, calls and results as plain text turns, for templates that do not know them."""
    plain: list[Message] = []
    for message in messages:
        content = message.content
        if message.tool_calls:
            calls = "\n".join(tool_call_text(call) for call in message.tool_calls)
            content = f"{content}\n{calls}" if content else calls
        if message.role == "tool":
            plain.append(Message("user", f"<tool_response>\n{content}\n</tool_response>", message.weight))
        else:
            plain.append(replace(message, content=content, tool_calls=()))
    if tools:
        described = _TOOLS_AS_TEXT.format(tools=tools)
        if plain and plain[0].role == "system":
            plain[0] = replace(plain[0], content=f"{plain[0].content}\n\n{described}")
        else:
            plain.insert(0, Message("system", described))
    return plain
