"""Exact duplicates: rows that say the same become one."""

from __future__ import annotations

import polars as pl

from tunesmith.core.ledger import Ledger
from tunesmith.data.defects import Reason
from tunesmith.data.keys import content_key


def merge_duplicates(frame: pl.DataFrame, ledger: Ledger, *, by_source: bool = False) -> pl.DataFrame:
    """Keep the first of equal rows. The ledger names it: its number is the amount of the rows merged into it.

    With `by_source` rows of different sources stay apart: they are asked different questions.
    """
    alike = ["content_key", "source"] if by_source else ["content_key"]
    marked = frame.with_columns(content_key()).with_columns(partner=pl.col("row").first().over(alike))
    merged = marked.filter(pl.col("partner") != pl.col("row"))
    reason: Reason = "exact_duplicate_of_row"
    ledger.decide(merged["row"], "merged", reason, merged["partner"])
    return marked.filter(pl.col("partner") == pl.col("row")).select(frame.columns)
