"""The canonical table: one polars schema for rows of every kind, and its way to `Example` and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

import polars as pl
import pyarrow as pa

from tunesmith.core.types import Example, Message, Origin, ToolCall

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
_ARROW_TURNS = pa.list_(
    pa.struct([(field.name, pa.float64() if field.dtype == pl.Float64 else pa.string()) for field in TURN.fields])
)
TURN_COLUMNS = ("messages", "chosen", "rejected")
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
    }
)


def build_frame(columns: Mapping[str, Sequence[object]]) -> pl.DataFrame:
    """The table of columns in the schema's order. Turns go through Arrow: polars would make a series of every row."""
    series = [
        pl.Series(name, pl.from_arrow(pa.array(values, _ARROW_TURNS)), dtype=SCHEMA[name])
        if name in TURN_COLUMNS
        else pl.Series(name, values, dtype=SCHEMA[name])
        for name, values in columns.items()
    ]
    return pl.DataFrame(series, schema=SCHEMA)


def tool_calls_text(calls: Iterable[ToolCall]) -> str:
    """Tool calls as the table stores them."""
    listed = [{"name": call.name, "arguments": call.arguments, "id": call.id} for call in calls]
    return json.dumps(listed, ensure_ascii=False) if listed else ""


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
    }
    return build_frame(columns)


def to_examples(frame: pl.DataFrame) -> list[Example]:
    """The table's rows as values that tasks take, in their order."""
    return [
        Example(
            row=row["row"],
            kind=row["kind"],
            origin=Origin(row["source"], row["index"], row["group"]),
            messages=_turns(row["messages"]),
            tools=row["tools"],
            text=row["text"],
            chosen=_turns(row["chosen"]),
            rejected=_turns(row["rejected"]),
            label=row["label"],
            tokens=tuple(row["tokens"]),
            labels=tuple(row["labels"]),
            parent=row["parent"],
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
