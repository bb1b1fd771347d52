"""Normalising: pure functions from one table to the next."""

from __future__ import annotations

import polars as pl

from tunesmith.data.defects import Reason
from tunesmith.data.settled import any_unsettled, where_flagged
from tunesmith.data.table import TURN_COLUMNS

# Control characters but tab and newline, and the zero-width mark that editors leave behind. Zero-width joiners stay:
# emoji and several scripts need them.
_CONTROL = "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u0084\u0086-\u009f\ufeff]"
_LINE_END = "\r\n|\r|\u0085|\u2028|\u2029"


def normalized(text: pl.Expr) -> pl.Expr:
    """Unicode NFC, line ends as \\n, no control characters, no blanks at either end."""
    return text.str.replace_all(_LINE_END, "\n").str.replace_all(_CONTROL, "").str.normalize("NFC").str.strip_chars()


def normalize(frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Every text of the table normalised, and the number of rows that this changed."""
    return where_flagged(frame, any_unsettled(), _normalize_all)


def _normalize_all(frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    content = normalized(pl.field("content")).alias("content")
    turns = [pl.col(name).list.eval(pl.element().struct.with_fields(content)) for name in TURN_COLUMNS]
    cleaned = frame.with_columns(normalized(pl.col("text")).alias("text"), *turns)
    differs = [frame[name].ne_missing(cleaned[name]) for name in ("text", *TURN_COLUMNS)]
    return cleaned, pl.select(pl.any_horizontal(*differs).sum()).item() if len(frame) else 0


def blank_reason() -> pl.Expr:
    """Why a row has nothing left to learn from after normalising; null when it has."""
    kind = pl.col("kind")
    in_turns = kind.is_in(["chat", "kto", "preference"])
    asked = pl.col("messages").list.eval(
        pl.element().filter(pl.element().struct.field("role") == "user").struct.field("content") != ""
    )
    said = {name: _says_something(pl.col(name).list.last()) for name in TURN_COLUMNS}
    in_pair = kind == "preference"
    reasons: list[tuple[pl.Expr, Reason]] = [
        (kind.is_in(["text", "text_class"]) & (pl.col("text") == ""), "empty_text"),
        (in_turns & ~asked.list.any(), "empty_prompt"),
        (kind.is_in(["chat", "kto"]) & ~said["messages"], "empty_answer"),
        (in_pair & ~(said["chosen"] & said["rejected"]), "empty_answer"),
        (in_pair & (pl.col("chosen") == pl.col("rejected")), "same_answers"),
    ]
    return pl.coalesce(*(pl.when(test).then(pl.lit(reason)) for test, reason in reasons)).alias("reason")


def _says_something(turn: pl.Expr) -> pl.Expr:
    return (turn.struct.field("content") != "") | (turn.struct.field("tool_calls") != "")
