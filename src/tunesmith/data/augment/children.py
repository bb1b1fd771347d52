"""A row and the rows made from it: which words of a row may change, and how a changed row is put into the table."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from tunesmith.core.ledger import Ledger
from tunesmith.core.seed import derive_seed
from tunesmith.data.defects import Reason
from tunesmith.data.table import SCHEMA, build_frame

Row = Mapping[str, object]


@dataclass(frozen=True)
class Child:
    """A row to be made in its parent's place, with other content; `refused` says why it goes at once.

    `other` is the second row that it was made from, `boxes_gone` counts the boxes that were too little to stay.
    """

    parent: int
    row: Row
    refused: Reason | None = None
    other: int | None = None
    boxes_gone: int = 0


def asked_text(row: Row) -> str:
    """The words of a row that a method may change: its text, or what the user says last."""
    turns = row["messages"]
    if isinstance(turns, Sequence) and turns:
        place = _last_asked(turns)
        return str(turns[place]["content"]) if place >= 0 else ""
    return str(row["text"])


def with_asked_text(row: Row, text: str) -> Row:
    """The row with other words in that place."""
    turns = row["messages"]
    if isinstance(turns, Sequence) and turns:
        changed = list(turns)
        place = _last_asked(turns)
        changed[place] = {**turns[place], "content": text}
        return {**row, "messages": changed}
    return {**row, "text": text}


def _last_asked(turns: Sequence[Mapping[str, object]]) -> int:
    return max((place for place, turn in enumerate(turns) if turn["role"] == "user"), default=-1)


def chance_of(seed: int, method: str, row: Row, child: int) -> random.Random:
    """Chance that depends on the seed, the method, what the row says and the child's number, not on other rows."""
    said = f"{row['messages']}{row['text']}{row['tokens']}"
    digest = int.from_bytes(hashlib.sha256(said.encode()).digest()[:7], "big")
    return random.Random(derive_seed(seed, f"augment {method}", digest, child))


def as_table(children: Sequence[Child], reason: Reason, ledger: Ledger) -> pl.DataFrame:
    """The children as rows of the table, entered in the ledger as made for this reason; those refused are dropped."""
    numbers = ledger.make((child.parent for child in children), reason, [child.other for child in children])
    refused: dict[Reason, list[int]] = {}
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA}
    for number, child in zip(numbers, children, strict=True):
        if child.refused is not None:
            refused.setdefault(child.refused, []).append(number)
            continue
        made = {**child.row, "row": number, "parent": child.parent}
        for name, column in columns.items():
            column.append(made[name])
    gone = {number: child.boxes_gone for number, child in zip(numbers, children, strict=True) if child.boxes_gone}
    ledger.change(gone, "boxes_gone", gone.values())
    for why, rows in refused.items():
        ledger.decide(rows, "dropped", why)
    return build_frame(columns)
