"""Normalising: pure functions from one table to the next."""

from __future__ import annotations

import polars as pl

from tunesmith.data.defects import Reason
from tunesmith.data.settled import any_unsettled, where_flagged
from tunesmith.data.table import TURN_COLUMNS
from tunesmith.data.texts import any_text, changed_rows, each_text, each_turn

# Control characters but tab and newline; and marks that show nothing and mean nothing in running text: soft hyphen,
# zero-width blank, word joiner, and the zero-width mark that editors leave behind.
_CONTROL = "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u0084\u0086-\u009f\u00ad\u200b\u2060\ufeff]"
_JOINERS = "[\u200c\u200d]"
# Emoji, Arabic and Indic scripts need joiners; between these letters they can only be rubbish.
_NEEDLESS_JOINER = rf"(^|[\p{{Latin}}\p{{Han}}\p{{N}}\p{{P}}\s]){_JOINERS}+"
_LINE_END = "\r\n|\r|\u0085|\u2028|\u2029"


def normalized(text: pl.Expr) -> pl.Expr:
    """Unicode NFC, line ends as \\n, no control characters."""
    return text.str.replace_all(_LINE_END, "\n").str.replace_all(_CONTROL, "").str.normalize("NFC")


def normalize(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
    """Every text of the table normalised, and the numbers of the rows that this changed.

    Turns lose the blanks at their ends, for the template sets its own; plain texts are learned as they stand.
    """
    return where_flagged(frame, any_unsettled(), _normalize_all)


def _normalize_all(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
    cleaned = frame.with_columns(each_text(normalized))
    if cleaned.select(any_text(lambda text: text.str.contains(_JOINERS)).any()).item():
        cleaned = cleaned.with_columns(each_text(lambda text: text.str.replace_all(_NEEDLESS_JOINER, "$1")))
    cleaned = cleaned.with_columns(each_turn(lambda content: content.str.strip_chars()))
    return cleaned, changed_rows(frame, cleaned)


def blank_reason() -> pl.Expr:
    """Why a row has nothing left to learn from after normalising; null when it has."""
    return pl.coalesce(*(pl.when(test).then(pl.lit(reason)) for test, reason in _blank_tests())).alias("reason")


def reasons_of_blank() -> frozenset[Reason]:
    """Every reason for which a row has nothing left to learn from."""
    return frozenset(reason for _, reason in _blank_tests())


def _blank_tests() -> list[tuple[pl.Expr, Reason]]:
    kind = pl.col("kind")
    in_turns = kind.is_in(["chat", "kto", "preference"])
    asked = pl.col("messages").list.eval(
        pl.element().filter(pl.element().struct.field("role") == "user").struct.field("content") != ""
    )
    said = {name: _says_something(pl.col(name).list.last()) for name in TURN_COLUMNS}
    in_pair = kind == "preference"
    return [
        (kind.is_in(["text", "text_class"]) & (pl.col("text").str.strip_chars() == ""), "empty_text"),
        (in_turns & ~asked.list.any(), "empty_prompt"),
        (kind.is_in(["chat", "kto"]) & ~said["messages"], "empty_answer"),
        (in_pair & ~(said["chosen"] & said["rejected"]), "empty_answer"),
        (in_pair & (pl.col("chosen") == pl.col("rejected")), "same_answers"),
    ]


def _says_something(turn: pl.Expr) -> pl.Expr:
    return (turn.struct.field("content") != "") | (turn.struct.field("tool_calls") != "")
