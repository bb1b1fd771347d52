"""The canonical table: one polars schema for rows of every kind, and its way to `Example` and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

import polars as pl
import pyarrow as pa

from tunesmith.core.types import Box, Example, Media, Message, Origin, ToolCall

TURN = pl.Struct(
    {
        "role": pl.String,
        "content": pl.String,
        "weight": pl.Float64,
        "tool_calls": pl.String,  # JSON text of [{name, arguments, id}], "" when the turn calls none
        "name": pl.String,
        "tool_call_id": pl.String,
    }
)
MEDIA = pl.Struct(
    {
        "path": pl.String,
        "sha256": pl.String,
        "bytes": pl.Int64,
        "form": pl.String,
        "width": pl.Int64,
        "height": pl.Int64,
        "orientation": pl.Int64,
        "seconds": pl.Float64,
        "sample_rate": pl.Int64,
        "channels": pl.Int64,
    }
)
BOX = pl.Struct(
    {
        "label": pl.String,
        "x": pl.Float64,
        "y": pl.Float64,
        "width": pl.Float64,
        "height": pl.Float64,
        "ignored": pl.Boolean,
    }
)
_ARROW_TURNS = pa.list_(
    pa.struct([(field.name, pa.float64() if field.dtype == pl.Float64 else pa.string()) for field in TURN.fields])
)
_ARROW_MEDIA = pa.struct(
    [
        *((name, pa.string()) for name in ("path", "sha256")),
        ("bytes", pa.int64()),
        ("form", pa.string()),
        *((name, pa.int64()) for name in ("width", "height", "orientation")),
        ("seconds", pa.float64()),
        *((name, pa.int64()) for name in ("sample_rate", "channels")),
    ]
)
_ARROW_BOXES = pa.list_(
    pa.struct(
        [
            ("label", pa.string()),
            *((name, pa.float64()) for name in ("x", "y", "width", "height")),
            ("ignored", pa.bool_()),
        ]
    )
)
TURN_COLUMNS = ("messages", "chosen", "rejected")
_THROUGH_ARROW = {**dict.fromkeys(TURN_COLUMNS, _ARROW_TURNS), "media": _ARROW_MEDIA, "boxes": _ARROW_BOXES}
SCHEMA = pl.Schema(
    {
        "row": pl.Int64(),  # number in the ledger
        "source": pl.String(),
        "index": pl.Int64(),  # place in the source, counted from 0
        "group": pl.String(),
        "kind": pl.String(),
        "messages": pl.List(TURN),
        "tools": pl.String(),  # JSON text, "" when none
        "text": pl.String(),
        "chosen": pl.List(TURN),
        "rejected": pl.List(TURN),
        "label": pl.Boolean(),
        "tokens": pl.List(pl.String),
        "labels": pl.List(pl.String),
        "parent": pl.Int64(),  # row that this one was made from; null where it was read
        "time": pl.Datetime("us", "UTC"),  # null where the split does not go by it
        "media": MEDIA,  # null where the row is about words alone
        "boxes": pl.List(BOX),
        "label_weights": pl.List(pl.Float64),  # a share for each label; empty where all count whole
    }
)


def build_frame(columns: Mapping[str, Sequence[object]]) -> pl.DataFrame:
    """The table of columns in the schema's order. Turns go through Arrow: polars would make a series of every row."""
    series = [
        pl.Series(name, pl.from_arrow(pa.array(values, _THROUGH_ARROW[name])), dtype=SCHEMA[name])
        if name in _THROUGH_ARROW
        else pl.Series(name, values, dtype=SCHEMA[name])
        for name, values in columns.items()
    ]
    return pl.DataFrame(series, schema=SCHEMA)


def tool_calls_text(calls: Iterable[ToolCall]) -> str:
    """Tool calls as the table stores them."""
    listed = [{"name": call.name, "arguments": call.arguments, "id": call.id} for call in calls]
    return json.dumps(listed, ensure_ascii=False) if listed else ""


def media_value(media: Media | None) -> dict[str, object] | None:
    """A row's picture or sound as the table stores it."""
    return None if media is None else asdict(media)


def turn_value(message: Message) -> dict[str, object]:
    """One turn as the table stores it."""
    return {
        "role": message.role,
        "content": message.content,
        "weight": message.weight,
        "tool_calls": tool_calls_text(message.tool_calls),
        "name": message.name,
        "tool_call_id": message.tool_call_id,
    }


def from_examples(examples: Sequence[Example]) -> pl.DataFrame:
    """The table of examples, in their order."""
    columns: dict[str, list[object]] = {
        "row": [example.row for example in examples],
        "source": [example.origin.source for example in examples],
        "index": [example.origin.index for example in examples],
        "group": [example.origin.group for example in examples],
        "kind": [example.kind for example in examples],
        "messages": [[turn_value(turn) for turn in example.messages] for example in examples],
        "tools": [example.tools for example in examples],
        "text": [example.text for example in examples],
        "chosen": [[turn_value(turn) for turn in example.chosen] for example in examples],
        "rejected": [[turn_value(turn) for turn in example.rejected] for example in examples],
        "label": [example.label for example in examples],
        "tokens": [list(example.tokens) for example in examples],
        "labels": [list(example.labels) for example in examples],
        "parent": [example.parent for example in examples],
        "time": [example.origin.time for example in examples],
        "media": [media_value(example.media) for example in examples],
        "boxes": [[asdict(box) for box in example.boxes] for example in examples],
        "label_weights": [list(example.label_weights) for example in examples],
    }
    return build_frame(columns)


def to_examples(frame: pl.DataFrame) -> list[Example]:
    """The table's rows as values that tasks take, in their order."""
    return [
        Example(
            row=row["row"],
            kind=row["kind"],
            origin=Origin(row["source"], row["index"], row["group"], row["time"]),
            messages=_turns(row["messages"]),
            tools=row["tools"],
            text=row["text"],
            chosen=_turns(row["chosen"]),
            rejected=_turns(row["rejected"]),
            label=row["label"],
            tokens=tuple(row["tokens"]),
            labels=tuple(row["labels"]),
            parent=row["parent"],
            media=Media(**row["media"]) if row["media"] else None,
            boxes=tuple(Box(**box) for box in row["boxes"] or ()),
            label_weights=tuple(row["label_weights"] or ()),
        )
        for row in frame.iter_rows(named=True)
    ]


def _turns(stored: Sequence[Mapping[str, object]]) -> tuple[Message, ...]:
    return tuple(_turn(turn) for turn in stored)


def _turn(turn: Mapping[str, object]) -> Message:
    calls = str(turn["tool_calls"])
    weight = turn["weight"]
    return Message(
        role=turn["role"],  # type: ignore[arg-type]  # the table only ever holds known roles
        content=str(turn["content"]),
        weight=weight if isinstance(weight, float) else None,
        tool_calls=tuple(ToolCall(**call) for call in json.loads(calls)) if calls else (),
        name=str(turn["name"]),
        tool_call_id=str(turn["tool_call_id"]),
    )
