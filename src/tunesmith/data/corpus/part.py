"""The first half of the pass, a piece at a time: read, clean, and what duplicates are found by.

A finished part is a folder with `rows.arrow` (the canonical table of the rows that stay so far), `fates.arrow` (a line
a row that was read) and the arrays of `Marks`. Folders appear whole, so a part that is there is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from tunesmith.core.files import new_folder
from tunesmith.core.ledger import Ledger
from tunesmith.data.corpus.pieces import Piece, read_piece
from tunesmith.data.formats.read import Reading
from tunesmith.data.minhash import BINS, Signatures, signatures
from tunesmith.data.near import Rows
from tunesmith.data.shingles import Hashes, shingle
from tunesmith.recipe.specs.data import SourceSpec

ROWS, FATES = "rows.arrow", "fates.arrow"
_SIZES, _KEYS, _SIGNATURES = "sizes.i64", "keys.u64", "signatures.u32"
"""Plain numbers, row after row, in this machine's order of bytes: parts go no further than the build that made them."""

Clean = Callable[[pl.DataFrame, Ledger], pl.DataFrame]
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
    frame = clean(read_piece(piece, source, reading, ledger), ledger)
    texts = frame["text"]
    shingled = shingle(texts)
    marks = {
        _SIZES: texts.str.len_chars().to_numpy().astype(np.int64),
        _KEYS: np.stack([texts.hash(seed=1).to_numpy(), shingled.row_keys], axis=1),
        _SIGNATURES: signatures(shingled),
    }
    with new_folder(folder) as aside:
        frame.write_ipc(aside / ROWS, compression="uncompressed")
        _fates(ledger).write_ipc(aside / FATES, compression="uncompressed")
        for name, values in marks.items():
            (aside / name).write_bytes(np.ascontiguousarray(values).data)


def read_rows(folder: Path) -> pl.DataFrame:
    """The rows of a part, mapped into memory: only what is looked at is read."""
    return _mapped(folder / ROWS)


def read_fates(folder: Path) -> pl.DataFrame:
    """`index`, `fate`, `reason`, `amount` of every row that was read."""
    return _mapped(folder / FATES)


def read_marks(folder: Path) -> Marks:
    """The marks of a part."""
    sizes = np.fromfile(folder / _SIZES, np.int64)
    if not len(sizes):  # an empty file cannot be mapped
        return Marks(sizes, np.empty((0, 2), np.uint64), np.empty((0, BINS), np.uint32))
    keys = np.fromfile(folder / _KEYS, np.uint64).reshape(-1, 2)
    return Marks(sizes, keys, np.memmap(folder / _SIGNATURES, np.uint32, mode="r", shape=(len(sizes), BINS)))


def _mapped(path: Path) -> pl.DataFrame:
    found = pl.from_arrow(pa.ipc.open_file(pa.memory_map(str(path))).read_all())
    assert isinstance(found, pl.DataFrame)
    return found


def _fates(ledger: Ledger) -> pl.DataFrame:
    entries = ledger.entries()
    return pl.DataFrame(
        {
            "index": pl.Series([entry.index for entry in entries], dtype=pl.Int64),
            "fate": pl.Series([entry.fate for entry in entries], dtype=pl.String),
            "reason": pl.Series([entry.reason for entry in entries], dtype=pl.String),
            "amount": pl.Series([entry.amount for entry in entries], dtype=pl.Int64),
        }
    )
