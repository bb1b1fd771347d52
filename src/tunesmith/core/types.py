"""The values that travel between rooms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
MediaKind = Literal["image_class", "detection", "audio_class", "audio_text"]
RowKind = Literal["chat", "text", "preference", "kto", "text_class", "token_class"] | MediaKind
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
class Media:
    """The picture or the sound that a row is about, as its file holds it.

    `path` lies below the row's source; `cell:ROW:FILE:COLUMN` is a cell of a table there, and what begins with `made:`
    was made here and lies in the prepared data. A picture has its `width` and `height` in pixels as people see it,
    after its EXIF `orientation` (1 to 8) was obeyed; a sound its `seconds`, `sample_rate` (Hz) and `channels`; the rest
    is 0.
    """

    path: str
    sha256: str
    bytes: int
    form: str
    width: int = 0
    height: int = 0
    orientation: int = 0
    seconds: float = 0.0
    sample_rate: int = 0
    channels: int = 0


@dataclass(frozen=True)
class Box:
    """A thing in a picture: pixels from the upper left corner of the picture as people see it.

    `ignored` marks what a detector is not judged by: COCO's crowds, VOC's difficult objects.
    """

    label: str
    x: float
    y: float
    width: float
    height: float
    ignored: bool = False


@dataclass(frozen=True)
class Origin:
    """Where a row came from: the source as the recipe names it and the row's place in it, counted from 0.

    `time` is the row's own, in UTC, where the split goes by it.
    """

    source: str
    index: int
    group: str = ""
    time: datetime | None = None


@dataclass(frozen=True)
class Example:
    """One row, ready for a task. `row` is its number in the ledger of the run.

    `messages` is the prompt and answer of a chat row; for a preference row it is the shared prompt, and `chosen`
    and `rejected` are the continuations; for a KTO row `label` says whether the answer was liked. A row of classes has
    its `text` (or `tokens`, read one by one) and the names of its `labels`: those of the text, or one of every token.
    A row that was made from another has that one's number as `parent`. A row about a picture or a sound has its
    `media`, and the `boxes` in it; its `text` is what is said in a sound. `label_weights` are the shares of
    `labels`, one each, of a row that was made from two; empty where every label counts whole.
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
    media: Media | None = None
    boxes: tuple[Box, ...] = ()
    label_weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class Report:
    """Numbers about one thing that was measured: metric name to value (shares are 0..1), over `rows` rows."""

    rows: int
    metrics: Mapping[str, float]
    notes: Mapping[str, str] = field(default_factory=dict)
