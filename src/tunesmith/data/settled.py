"""Which texts normalising may change at all: one look at a text's characters, ten times as fast as normalising it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache

import polars as pl

from tunesmith.data.table import TURN_COLUMNS

_REMOVED = "\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u200b-\u200d\u2028\u2029\u2060\ufeff"
"""Control characters, line ends but \\n, and marks that show nothing."""


_LOOKED_AT = 0x30000
"""Behind it Unicode has Han, tags and variation selectors, which NFC leaves alone."""


def may_change(text: pl.Expr) -> pl.Expr:
    """Whether normalising might change a text: true too often, never too rarely."""
    return text.str.contains(_unsettled())


def any_unsettled() -> pl.Expr:
    """Whether any text of a row may change; turns lose blanks at their ends, too."""
    content = pl.element().struct.field("content")
    padded = content.str.strip_chars().str.len_bytes() != content.str.len_bytes()
    turns = [pl.col(name).list.eval(padded | may_change(content)).list.any() for name in TURN_COLUMNS]
    return pl.any_horizontal(may_change(pl.col("text")), *turns).fill_null(False)


def where_flagged(
    frame: pl.DataFrame, flag: pl.Expr, change: Callable[[pl.DataFrame], tuple[pl.DataFrame, pl.Series]]
) -> tuple[pl.DataFrame, pl.Series]:
    """The table with the flagged rows put through a function that keeps them all, and what rows it has changed."""
    flagged = frame.select(flag.alias("flagged"))["flagged"]
    if not flagged.any():
        return frame, frame["row"].head(0)
    placed = frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("place"))
    changed, rows = change(placed.filter(flagged))
    return pl.concat([placed.filter(~flagged), changed]).sort("place").drop("place"), rows


@cache
def _unsettled() -> str:
    """A class of the characters that are removed, or that NFC may change or join with others."""
    parts = (unicodedata.decomposition(chr(code)).split() for code in range(_LOOKED_AT))
    joined = {int(each[1], 16) for each in parts if len(each) == 2 and each[0][0] != "<"}
    joined |= {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}  # vowels and ends of Hangul, composed by a rule
    open_codes = [
        code
        for code in range(0xA0, _LOOKED_AT)
        if not 0xD800 <= code < 0xE000
        and (unicodedata.combining(chr(code)) or code in joined or not unicodedata.is_normalized("NFC", chr(code)))
    ]
    return "[" + _REMOVED + "".join(rf"\x{{{code:x}}}" for code in open_codes) + "]"
