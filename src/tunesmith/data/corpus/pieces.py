"""Files in pieces that fit into memory, and a piece as a table.

A piece is a range of bytes that begins and ends with a line, or some row groups of a Parquet file, so that any process
can read it without the others.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.corpus.groups import PARQUET, group_sizes, read_groups, text_columns
from tunesmith.data.corpus.inputs import Input
from tunesmith.data.formats.files import RawFile
from tunesmith.data.formats.kinds import is_pressed
from tunesmith.data.formats.read import Reading, read_raw
from tunesmith.data.formats.rows import LONGEST_ROW, RawRow, rows_of_lines
from tunesmith.data.table import SCHEMA
from tunesmith.recipe.specs.data import SourceSpec

PIECE_BYTES = 1 << 25
_LINE_SEARCH_BYTES = 1 << 16
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Piece:
    """Bytes (or row groups) [start, end) of a file of a source, by its place in the recipe; `bytes` is what is read."""

    source: int
    path: Path
    start: int
    end: int
    bytes: int


def pieces_of(inputs: Iterable[Input], size: int = PIECE_BYTES) -> Iterator[Piece]:
    """The pieces of all files, in their order. Errors: those of `group_sizes`."""
    for each in inputs:
        cut = _group_ranges(each.path, size) if each.kind == PARQUET else _line_ranges(each.path, size)
        for start, end, read in cut:
            yield Piece(each.source, each.path, start, end, read)


def largest_piece(inputs: Iterable[Input], size: int = PIECE_BYTES) -> int:
    """Bytes of the largest piece, as far as that is known before any row is read: a line may be longer than a piece,
    and a compressed file counts as a long one. Errors: those of `group_sizes`.
    """
    found = 0
    for each in inputs:
        if each.kind == PARQUET:
            found = max(found, *(read for _, _, read in _group_ranges(each.path, size)))
        else:
            found = max(found, size if is_pressed(each.path) else min(size, each.path.stat().st_size))
    return found


def _group_ranges(path: Path, size: int) -> Iterator[tuple[int, int, int]]:
    start = read = 0
    sizes = group_sizes(path)
    for place, group in enumerate(sizes, 1):
        read += group
        if read >= size or place == len(sizes):
            yield start, place, read
            start, read = place, 0


def _line_ranges(path: Path, size: int) -> Iterator[tuple[int, int, int]]:
    start, whole = 0, path.stat().st_size
    while start < whole:
        end = _line_end(path, start + size, whole)
        yield start, end, end - start
        start = end


def _line_end(path: Path, wished: int, whole: int) -> int:
    """The first end of a line at or behind a place."""
    with path.open("rb") as stream:
        stream.seek(max(0, wished - 1))
        while wished < whole and (found := stream.read(_LINE_SEARCH_BYTES)):
            line_end = found.find(b"\n")
            if line_end >= 0:
                return stream.tell() - len(found) + line_end + 1
    return whole


def read_piece(piece: Piece, source: SourceSpec, reading: Reading, ledger: Ledger) -> pl.DataFrame:
    """The rows of a piece in the canonical table. The ledger, one of the piece alone, numbers them from 0.

    Errors: those of `read_raw` and `read_groups`; data.unreadable; data.wrong_encoding where a byte is not UTF-8.
    """
    name = source.title
    read = _groups(piece, source, reading) if piece.path.suffix.lower() == PARQUET else _lines(piece, source, reading)
    if isinstance(read, pl.DataFrame):
        ledger.read(name, len(read))
        return read
    source = source.model_copy(update={"layout": "text"})  # one piece may hold nothing but odd rows
    raw = RawFile(piece.path, "", piece.bytes, "utf-8", False, read)
    return read_raw(raw, source, name, ledger.read(name, len(read)), reading, ledger)[0]


def _lines(piece: Piece, source: SourceSpec, reading: Reading) -> pl.DataFrame | list[RawRow]:
    """The table of lines that all hold a text, else the lines: every one wants a look of its own."""
    try:
        with piece.path.open("rb") as stream:
            stream.seek(piece.start)
            content = stream.read(piece.end - piece.start)
    except OSError as error:
        raise TunesmithError("data.unreadable", path=str(piece.path), reason=str(error.strerror)) from error
    content = content.removeprefix(_BOM) if piece.start == 0 else content
    frame = _plain_texts(content, source, reading)
    return rows_of_lines(_decoded(content, piece), piece.path) if frame is None else frame


def _groups(piece: Piece, source: SourceSpec, reading: Reading) -> pl.DataFrame | list[RawRow]:
    """The table of rows that all hold a text, else the rows with all their columns."""
    groups = (piece.path, piece.start, piece.end)
    column, group = source.columns.get("text", "text"), reading.group_by
    words = [column, *([group] if group else [])]
    if _only_texts(source, reading) and text_columns(piece.path).issuperset(words):
        frame = _texts(read_groups(*groups, words), column, group, source.title)
        if frame is not None:
            return frame
    return list(read_groups(*groups).iter_rows(named=True))


def _decoded(content: bytes, piece: Piece) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        offset = piece.start + error.start
        raise TunesmithError("data.wrong_encoding", path=str(piece.path), encoding="utf-8", offset=offset) from None


def _only_texts(source: SourceSpec, reading: Reading) -> bool:
    return reading.wanted == "text" and source.layout in ("auto", "text") and source.terms is None


def _plain_texts(content: bytes, source: SourceSpec, reading: Reading) -> pl.DataFrame | None:
    """The table of lines that all hold a text; None where that is not sure."""
    if not _only_texts(source, reading):
        return None
    column = source.columns.get("text", "text")
    schema = {column: pl.String, **({reading.group_by: pl.String} if reading.group_by else {})}
    try:
        read = pl.read_ndjson(io.BytesIO(content), schema=schema)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None
    # A number would have become a text, and of a key that stands twice one would have won.
    plain = sum(content.count(f'"{column}":{blank}"'.encode()) for blank in ("", " "))
    return _texts(read, column, reading.group_by, source.title) if plain == len(read) else None


def _texts(read: pl.DataFrame, column: str, group_by: str | None, name: str) -> pl.DataFrame | None:
    """The canonical table of columns of words; None where a row has no text, or one beyond all measure."""
    texts = read[column]
    if texts.null_count() or (texts.str.len_bytes() > LONGEST_ROW).any():
        return None
    return _table(texts, read[group_by].fill_null("") if group_by else pl.lit(""), name)


def _table(texts: pl.Series, group: pl.Series | pl.Expr, name: str) -> pl.DataFrame:
    number = pl.int_range(len(texts), dtype=pl.Int64)
    known: dict[str, pl.Expr | pl.Series] = {"row": number, "index": number, "text": texts, "group": group}
    known |= {"source": pl.lit(name), "kind": pl.lit("text"), "tools": pl.lit("")}
    known |= {
        column: pl.lit([] if isinstance(kind, pl.List) else None, dtype=kind)
        for column, kind in SCHEMA.items()
        if column not in known
    }
    table = pl.DataFrame({"place": texts}).select(**known)
    return table.select(SCHEMA.names())
