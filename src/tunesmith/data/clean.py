"""Normalising: pure functions from one table to the next."""

from __future__ import annotations

import sys
import unicodedata
from functools import cache

import polars as pl

from tunesmith.core.ledger import Ledger
from tunesmith.data.defects import Reason
from tunesmith.data.table import TURN_COLUMNS
from tunesmith.recipe.specs.data import CleanSpec

# Control characters but tab and newline, and the zero-width mark that editors leave behind. Zero-width joiners stay:
# emoji and several scripts need them.
_CONTROL = "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u0084\u0086-\u009f\ufeff]"
_LINE_END = "\r\n|\r|\u0085|\u2028|\u2029"


def normalized(text: pl.Expr) -> pl.Expr:
    """Unicode NFC, line ends as \\n, no control characters, no blanks at either end."""
    return text.str.replace_all(_LINE_END, "\n").str.replace_all(_CONTROL, "").str.normalize("NFC").str.strip_chars()


def may_change(text: pl.Expr) -> pl.Expr:
    """Whether `normalized` might change a text: true too often, never too rarely, and ten times as fast."""
    trimmed = text.str.strip_chars().str.len_bytes() != text.str.len_bytes()
    return trimmed | text.str.contains(f"{_CONTROL}|{_LINE_END}|{_not_settled()}")


@cache
def _not_settled() -> str:
    """A class of the characters that NFC may change or join with others: every other one stays as it is."""
    parts = (unicodedata.decomposition(chr(code)).split() for code in range(sys.maxunicode + 1))
    joined = {int(each[-1], 16) for each in parts if each and each[0][0] != "<"}
    joined |= {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}  # vowels and ends of Hangul, composed by a rule
    open_codes = [
        code
        for code in range(0xA0, sys.maxunicode + 1)
        if not 0xD800 <= code < 0xE000
        and (unicodedata.combining(chr(code)) or code in joined or not unicodedata.is_normalized("NFC", chr(code)))
    ]
    return "[" + "".join(rf"\x{{{code:x}}}" for code in open_codes) + "]"


def normalize(frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Every text of the table normalised, and the number of rows that this changed."""
    in_turns = [
        pl.col(name).list.eval(may_change(pl.element().struct.field("content"))).list.any() for name in TURN_COLUMNS
    ]
    flagged = frame.select(pl.any_horizontal(may_change(pl.col("text")), *in_turns).fill_null(False)).to_series()
    if not flagged.any():
        return frame, 0
    place = pl.int_range(pl.len(), dtype=pl.Int64).alias("place")
    placed = frame.with_columns(place)
    cleaned, changed = _normalize_all(placed.filter(flagged))
    return pl.concat([placed.filter(~flagged), cleaned]).sort("place").drop("place"), changed


def _normalize_all(frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    content = normalized(pl.field("content")).alias("content")
    turns = [pl.col(name).list.eval(pl.element().struct.with_fields(content)) for name in TURN_COLUMNS]
    cleaned = frame.with_columns(normalized(pl.col("text")).alias("text"), *turns)
    differs = [frame[name].ne_missing(cleaned[name]) for name in ("text", *TURN_COLUMNS)]
    return cleaned, pl.select(pl.any_horizontal(*differs).sum()).item() if len(frame) else 0


def clean_rows(frame: pl.DataFrame, spec: CleanSpec, ledger: Ledger) -> tuple[pl.DataFrame, int]:
    """The rows that stay after normalising, and how many of them it changed. A batch at a time does as well as all."""
    if not spec.normalize:
        return frame, 0
    frame, changed = normalize(frame)
    blank = frame.select("row", blank_reason()).drop_nulls("reason")
    for (reason,), rows in blank.group_by("reason", maintain_order=True):
        ledger.decide(rows["row"], "dropped", str(reason))
    return frame.join(blank, on="row", how="anti", maintain_order="left"), changed


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
