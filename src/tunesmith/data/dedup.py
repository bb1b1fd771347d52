"""Duplicates: rows that say the same become one, and of rows that say nearly the same one stays.

The ledger names, as the amount of every row that goes, the number of the row that stays for it. Of near duplicates that
is the one with the longest answer, of equally long ones the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tunesmith.core.ledger import Ledger
from tunesmith.data.defects import Reason
from tunesmith.data.keys import answers, content_key, said
from tunesmith.data.near import NOTHING_NEAR, Pairs, jaccard, leaders, near_pairs
from tunesmith.data.shingles import shingle

_VECTORS_AT_ONCE = 2048


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


def drop_near_duplicates(frame: pl.DataFrame, threshold: float, ledger: Ledger) -> pl.DataFrame:
    """Keep one of the rows that are at least `threshold` alike (Jaccard of shingles), whole and in their answers."""
    pairs = near_pairs(frame.select(said())["said"], threshold)
    answered = shingle(frame.select(answers())["answers"])
    # Questions about one long passage are nearly the same text; their answers tell them apart.
    silent = (answered.counts[pairs.left] == 0) & (answered.counts[pairs.right] == 0)
    pairs = pairs.where(silent | (jaccard(answered, pairs.left, pairs.right) >= threshold))
    return drop_alike(frame, pairs, "near_duplicate_of_row", ledger)


class Embedder(Protocol):
    """Makes vectors of texts: one of unit length each [N, E], alike where the texts mean the same."""

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of some texts."""


def drop_semantic_duplicates(frame: pl.DataFrame, threshold: float, embed: Embedder, ledger: Ledger) -> pl.DataFrame:
    """Keep one of the rows whose vectors have at least the cosine `threshold` and whose labels are the same.

    Every row is held against every other: meant for a set to learn from, not for a corpus.
    """
    pairs = close_pairs(embed(frame.select(said())["said"].to_list()), threshold)
    return drop_alike(frame, pairs, "semantic_duplicate_of_row", ledger)


def close_pairs(vectors: NDArray[np.float32], threshold: float) -> Pairs:
    """The pairs of vectors [N, E] of unit length with at least this cosine."""
    found = [NOTHING_NEAR]
    for first in range(0, len(vectors), _VECTORS_AT_ONCE):
        cosine = vectors[first : first + _VECTORS_AT_ONCE] @ vectors[first:].T
        left, right = np.nonzero(np.triu(cosine >= threshold, k=1))
        found.append(Pairs(left + first, right + first, cosine[left, right].astype(np.float64)))
    return Pairs(*(np.concatenate([getattr(part, name) for part in found]) for name in ("left", "right", "similarity")))


def drop_alike(frame: pl.DataFrame, pairs: Pairs, reason: Reason, ledger: Ledger) -> pl.DataFrame:
    """Keep the best row of those that `pairs` (places in the table) say are alike.

    Rows with different labels teach different things, however alike their words are: they all stay.
    """
    label = pl.concat_str("kind", pl.col("label").cast(pl.String).fill_null(""), pl.col("labels").list.join("\n"))
    labels = frame.select(label.alias("label"))["label"]
    pairs = pairs.where((labels[pairs.left] == labels[pairs.right]).to_numpy())
    partner = leaders(pairs, best_first(frame))
    goes = partner != np.arange(len(frame))
    rows = frame["row"].to_numpy()
    ledger.decide(rows[goes].tolist(), "dropped", reason, rows[partner[goes]].tolist())
    return frame.filter(~pl.Series(goes))


def best_first(frame: pl.DataFrame) -> NDArray[np.int64]:
    """The place of each row in the order of preference: longest answer (or text), then first. [N]"""
    length = answers().str.len_chars() + pl.col("text").str.len_chars()
    lengths = frame.select(length.alias("length"))["length"].to_numpy().astype(np.int64)
    rank = np.empty(len(frame), np.int64)
    rank[np.argsort(-lengths, kind="stable")] = np.arange(len(frame))
    return rank
