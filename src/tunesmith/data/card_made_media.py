"""What the data card says of pictures and sounds that were made: how many by which method, and some to look at."""

from __future__ import annotations

import polars as pl

from tunesmith.core.ledger import Entry
from tunesmith.data.card_parts import Cell, Part, Picture, Section, Table
from tunesmith.data.media.content import MADE
from tunesmith.data.media.sheet import contact_sheet, made_rows
from tunesmith.data.prepared import Prepared
from tunesmith.data.table import to_examples
from tunesmith.messages import both

_SHOWN = 4
"""Rows of each method on the contact sheet."""


def made_media_section(prepared: Prepared) -> Section | None:
    """A line a method, and the contact sheet where the files were kept; nothing where none were made."""
    train = prepared.frames.get("train")
    if train is None:
        return None
    frame = train.filter(pl.col("media").struct.field("path").str.starts_with(MADE))
    if frame.is_empty():
        return None
    entries = prepared.ledger.entries()
    by_method: dict[str, list[Entry]] = {}
    for number in frame["row"]:
        by_method.setdefault(entries[number].reason, []).append(entries[number])
    names = ("method", "rows_made", "files", "megabytes", "boxes", "boxes_gone", "mixed")
    columns = tuple(both(f"card.column_{name}") for name in names)
    rows = tuple(_line(method, made, frame) for method, made in sorted(by_method.items()))
    parts: list[Part] = [both("card.made_media_text"), Table(columns, rows)]
    if prepared.places.made is not None:
        parts += [both("card.contact_sheet"), Picture(_sheet(prepared, train, by_method))]
    return Section(both("card.made_media"), tuple(parts))


def _line(method: str, made: list[Entry], frame: pl.DataFrame) -> tuple[Cell, ...]:
    rows = frame.filter(pl.col("row").is_in([entry.row for entry in made]))
    files = rows.select(pl.col("media").struct.unnest()).unique("sha256")
    gone = sum(entry.changes.get("boxes_gone", 0) for entry in made)
    mixed = int((rows["label_weights"].list.len() > 0).sum())
    return (
        both(f"data.reason_{method}"),
        len(rows),
        len(files),
        f"{files['bytes'].sum() / 2**20:.1f}",
        int(rows["boxes"].list.len().sum()),
        gone,
        mixed,
    )


def _sheet(prepared: Prepared, train: pl.DataFrame, by_method: dict[str, list[Entry]]) -> str:
    """The first rows of each method that still have what they were made from beside them."""
    shown = [entry for made in by_method.values() for entry in made[:_SHOWN]]
    wanted = {number for entry in shown for number in (entry.row, entry.parent, entry.other) if number is not None}
    examples = {each.row: each for each in to_examples(train.filter(pl.col("row").is_in(wanted)))}
    reasons = {entry.row: entry.reason for entry in shown}
    others = {entry.row: entry.other for entry in shown if entry.other is not None}
    return contact_sheet(made_rows(examples, reasons, others), prepared.places)
