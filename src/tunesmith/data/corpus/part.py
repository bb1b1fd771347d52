"""The first half of the pass, a piece at a time: read, clean, and what duplicates are found by.

A finished part is a folder with `rows.arrow` (the canonical table of the rows that stay so far), `fates.arrow` (a line
a row that was read), `hits.arrow` (what is to be masked) and the arrays of `Marks`. Folders appear whole, so a part
that is there is done. Rows that were masked since (masks.py) stand in a folder beside it, and are read from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import is_whole, new_folder, verify_folder
from tunesmith.core.ledger import Entry, Ledger
from tunesmith.data.corpus.pieces import Piece, read_piece
from tunesmith.data.formats.read import Reading
from tunesmith.data.minhash import BINS, Signatures, signatures
from tunesmith.data.near import Rows
from tunesmith.data.pii.apply import Held
from tunesmith.data.shingles import Hashes, shingle_parts
from tunesmith.recipe.specs.data import SourceSpec

COLUMNS = ("row", "source", "index", "group", "text")
"""What a corpus keeps of the canonical table: of texts there is nothing else."""
ROWS, FATES, HITS = "rows.arrow", "fates.arrow", "hits.arrow"
PLACES = "places.i64"
_SIZES, _KEYS, _SIGNATURES = "sizes.i64", "keys.u64", "signatures.u32"
"""Plain numbers, row after row, in this machine's order of bytes: parts go no further than the build that made them."""
_CHANGES = pa.list_(pa.struct([("rule", pa.string()), ("places", pa.int64())]))
_HITS = {"row": pl.Int64, "column": pl.String, "type": pl.String, "start": pl.Int64, "end": pl.Int64,
         "value": pl.String}  # fmt: skip


@dataclass(frozen=True)
class Cleaned:
    """A piece after every rule: the rows that stay, what is still to be masked in them, and counts for the report."""

    frame: pl.DataFrame
    held: Held = field(default_factory=Held)
    facts: Mapping[str, object] = field(default_factory=dict)


Clean = Callable[[pl.DataFrame, Ledger], Cleaned]
"""A batch function: rows in, the rows that stay out, everything it did in the ledger."""


@dataclass(frozen=True)
class Marks:
    """What decides about the rows of a part, in the order of `rows.arrow`."""

    sizes: Rows  # characters [N]
    keys: Hashes  # of a text, and of its folded tokens [N, 2]
    signatures: Signatures  # [N, K], read from the disk as needed


def make_part(folder: Path, piece: Piece, source: SourceSpec, reading: Reading, clean: Clean) -> None:
    """Read and clean a piece, and write its part. Errors: those of `read_piece` and of `new_folder`."""
    ledger = Ledger()
    cleaned = clean(read_piece(piece, source, reading, ledger), ledger)
    marks = _marks(cleaned.frame["text"])
    with new_folder(folder, of=folder.name, **cleaned.facts) as aside:
        _write_rows(aside, cleaned.frame, marks)
        _fates(ledger.entries()).write_ipc(aside / FATES, compression="uncompressed")
        _hits(cleaned).write_ipc(aside / HITS, compression="uncompressed")


def is_part(folder: Path) -> bool:
    """Whether a part, or its masked rows, are there and whole, and of the plan and the piece that the name says."""
    return is_whole(folder, of=folder.name)


def check_part(folder: Path) -> None:
    """Hold what was read of a part against its hashes. Errors: corpus.part_damaged."""
    for each in (folder, *([] if read_hits(folder).is_empty() else [masked_of(folder)])):
        try:
            verify_folder(each)
        except TunesmithError as error:
            raise TunesmithError("corpus.part_damaged", path=str(each), reason=error.code) from error


def masked_of(folder: Path) -> Path:
    """Where the masked rows of a part stand, where it holds something that is to be masked."""
    return folder.with_name(f"{folder.name}-masked")


def make_masked(folder: Path, frame: pl.DataFrame, places: Rows) -> None:
    """Write rows that take the place of some of a part, given by their places in it. Errors: those of `new_folder`."""
    marks = _marks(frame["text"])
    with new_folder(masked_of(folder), of=masked_of(folder).name) as aside:
        _write_rows(aside, frame, marks)
        (aside / PLACES).write_bytes(np.ascontiguousarray(places, np.int64).data)


def read_cleaned(folder: Path) -> pl.DataFrame:
    """The rows of a part before they are masked, mapped into memory: only what is looked at is read."""
    return _mapped(folder / ROWS)


def read_rows(folder: Path, places: Rows | None = None) -> pl.DataFrame:
    """COLUMNS of the rows of a part, or of those at some places; mapped into memory as well."""
    rows = read_cleaned(folder).select(COLUMNS)
    if read_hits(folder).is_empty():
        return rows if places is None else rows[places]
    masked = masked_of(folder)
    stand_for = np.arange(len(rows))
    replaced = np.fromfile(masked / PLACES, np.int64)
    stand_for[replaced] = len(rows) + np.arange(len(replaced))
    both = pl.concat([rows, _mapped(masked / ROWS).select(COLUMNS)], rechunk=False)
    return both[stand_for if places is None else stand_for[places]]


def read_fates(folder: Path) -> pl.DataFrame:
    """`index`, `fate`, `reason`, `amount`, `changes` of every row that was read."""
    return _mapped(folder / FATES)


def read_hits(folder: Path) -> pl.DataFrame:
    """What is to be masked, in the order in which it stands in the rows: `row`, `column`, `type`, `start`, `end`,
    `value`.
    """
    return _mapped(folder / HITS)


def read_marks(folder: Path) -> Marks:
    """The marks of a part."""
    marks, masked = _read_marks(folder), masked_of(folder)
    if not read_hits(folder).is_empty():
        places, new = np.fromfile(masked / PLACES, np.int64), _read_marks(masked)
        for old, instead in ((marks.sizes, new.sizes), (marks.keys, new.keys), (marks.signatures, new.signatures)):
            old[places] = instead
    return marks


def _marks(texts: pl.Series) -> Marks:
    """Part by part: all shingles together would take eight bytes a token, and be read again from memory."""
    parts = [(each.row_keys, signatures(each)) for each in shingle_parts(texts)]
    row_keys = np.concatenate([np.empty(0, np.uint64), *(each for each, _ in parts)])
    found = np.concatenate([np.empty((0, BINS), np.uint32), *(each for _, each in parts)])
    keys = np.stack([texts.str.strip_chars().hash(seed=1).to_numpy(), row_keys], axis=1)
    return Marks(texts.str.len_chars().to_numpy().astype(np.int64), keys, found)


def _write_rows(folder: Path, frame: pl.DataFrame, marks: Marks) -> None:
    frame.write_ipc(folder / ROWS, compression="uncompressed")
    for name, values in ((_SIZES, marks.sizes), (_KEYS, marks.keys), (_SIGNATURES, marks.signatures)):
        (folder / name).write_bytes(np.ascontiguousarray(values).data)


def _read_marks(folder: Path) -> Marks:
    sizes = np.fromfile(folder / _SIZES, np.int64)
    if not len(sizes):  # an empty file cannot be mapped
        return Marks(sizes, np.empty((0, 2), np.uint64), np.empty((0, BINS), np.uint32))
    keys = np.fromfile(folder / _KEYS, np.uint64).reshape(-1, 2)
    # what is written into it stays in memory
    return Marks(sizes, keys, np.memmap(folder / _SIGNATURES, np.uint32, mode="c", shape=(len(sizes), BINS)))


def _mapped(path: Path) -> pl.DataFrame:
    try:
        found = pl.from_arrow(pa.ipc.open_file(pa.memory_map(str(path))).read_all())
    except (pa.ArrowException, OSError) as error:
        raise TunesmithError("corpus.part_damaged", path=str(path.parent), reason=str(error)) from error
    assert isinstance(found, pl.DataFrame)
    return found


def _fates(entries: tuple[Entry, ...]) -> pl.DataFrame:
    changes = [[{"rule": rule, "places": places} for rule, places in entry.changes.items()] for entry in entries]
    return pl.DataFrame(
        {
            "index": pl.Series([entry.index for entry in entries], dtype=pl.Int64),
            "fate": pl.Series([entry.fate for entry in entries], dtype=pl.String),
            "reason": pl.Series([entry.reason for entry in entries], dtype=pl.String),
            "amount": pl.Series([entry.amount for entry in entries], dtype=pl.Int64),
            "changes": pl.Series("changes", pl.from_arrow(pa.array(changes, _CHANGES))),
        }
    )


def _hits(cleaned: Cleaned) -> pl.DataFrame:
    """In the order in which the masks are put in: row after row, a text before its group."""
    rows = cleaned.frame.filter(pl.col("row").is_in(list(cleaned.held.rows)))
    found = [
        (row, column, hit.type, hit.start, hit.end, content[hit.start : hit.end])
        for row, *contents in rows.select("row", "text", "group").iter_rows()
        for column, content in zip(("text", "group"), contents, strict=True)
        for hit in cleaned.held.hits[content]
    ]
    return pl.DataFrame(found, schema=_HITS, orient="row")
