"""Rows in the form that the libraries of the ecosystem take as already tokenized."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.exchange import Row

IGNORED = -100
"""Label of a token that carries no loss."""


def labels_of(row: Row) -> list[int]:
    """The token where it is learned, else IGNORED."""
    return [token if learned else IGNORED for token, learned in zip(row.token_ids, row.answer, strict=True)]


def with_labels(rows: Sequence[Row]) -> list[dict[str, list[int]]]:
    """Token ids, attention mask and labels of each row."""
    return [
        {"input_ids": list(row.token_ids), "attention_mask": [1] * len(row.token_ids), "labels": labels_of(row)}
        for row in rows
    ]
