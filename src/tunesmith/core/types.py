"""The values that travel between rooms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
RowKind = Literal["chat", "text", "preference", "kto", "text_class", "token_class"]
SplitName = Literal["train", "validation", "test"]

SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class ToolCall:
    """A function that the assistant asks for. `arguments` is the JSON text exactly as it is trained on."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    `weight` says whether the turn is learned: None leaves it to the task (assistant turns are), 0 masks it,
    1 trains it; values between scale its loss.
    """

    role: Role
    content: str
    weight: float | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    name: str = ""
    tool_call_id: str = ""


@dataclass(frozen=True)
class Origin:
    """Where a row came from: the source as the recipe names it and the row's place in it, counted from 0."""

    source: str
    index: int
    group: str = ""


@dataclass(frozen=True)
class Example:
    """One row, ready for a task. `row` is its number in the ledger of the run.

    `messages` is the prompt and answer of a chat row; for a preference row it is the shared prompt, and `chosen`
    and `rejected` are the continuations; for a KTO row `label` says whether the answer was liked. A row of classes has
    its `text` (or `tokens`, read one by one) and the names of its `labels`: those of the text, or one of every token.
    A row that was made from another has that one's number as `parent`.
    """

    row: int
    kind: RowKind
    origin: Origin
    messages: tuple[Message, ...] = ()
    tools: str = ""
    text: str = ""
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    label: bool | None = None
    tokens: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    parent: int | None = None


@dataclass(frozen=True)
class Report:
    """Numbers about one thing that was measured: metric name to value (shares are 0..1), over `rows` rows."""

    rows: int
    metrics: Mapping[str, float]
    notes: Mapping[str, str] = field(default_factory=dict)
