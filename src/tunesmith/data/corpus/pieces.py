"""Files of lines in pieces that fit into memory, and a piece as a table.

A piece is a range of bytes that begins and ends with a line, so that any process can read it without the others.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.formats.files import RawFile, list_files
from tunesmith.data.formats.read import Reading, read_raw
from tunesmith.data.formats.rows import LONGEST_ROW, rows_of_lines
from tunesmith.data.table import SCHEMA
from tunesmith.recipe.places import local_path
from tunesmith.recipe.specs.data import SourceSpec

PIECE_BYTES = 1 << 25
_SUFFIXES = (".jsonl", ".ndjson")
_LINE_SEARCH_BYTES = 1 << 16
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Piece:
    """Bytes [start, end) of a file of a source (by its place in the recipe)."""

    source: int
    path: Path
    start: int
    end: int


def pieces_of(sources: list[SourceSpec], folder: Path, size: int = PIECE_BYTES) -> Iterator[Piece]:
    """The pieces of all sources, in their order. Errors: those of `list_files`, data.corpus_suffix."""
    for place, source in enumerate(sources):
        for path in list_files(local_path(source, folder))[0]:
            if path.suffix.lower() not in _SUFFIXES:
                raise TunesmithError("data.corpus_suffix", path=str(path), suffixes=" ".join(_SUFFIXES))
            start, whole = 0, path.stat().st_size
            while start < whole:
                end = _line_end(path, start + size, whole)
                yield Piece(place, path, start, end)
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

    Errors: those of `read_raw`; data.wrong_encoding where a byte is not UTF-8.
    """
    with piece.path.open("rb") as stream:
        stream.seek(piece.start)
        content = stream.read(piece.end - piece.start)
    name = source.title
    content = content.removeprefix(_BOM) if piece.start == 0 else content
    frame = _plain_texts(content, name, source, reading)
    if frame is not None:
        ledger.read(name, len(frame))
        return frame
    source = source.model_copy(update={"layout": "text"})  # one piece may hold nothing but odd lines
    rows = rows_of_lines(_decoded(content, piece), piece.path)
    raw = RawFile(piece.path, "", len(content), "utf-8", False, rows)
    return read_raw(raw, source, name, ledger.read(name, len(rows)), reading, ledger)[0]


def _decoded(content: bytes, piece: Piece) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        offset = piece.start + error.start
        raise TunesmithError("data.wrong_encoding", path=str(piece.path), encoding="utf-8", offset=offset) from None


def _plain_texts(content: bytes, name: str, source: SourceSpec, reading: Reading) -> pl.DataFrame | None:
    """The table of lines that all hold a text; None where that is not sure, and every line wants a look of its own."""
    if reading.wanted != "text" or source.layout not in ("auto", "text") or source.terms is not None:
        return None
    column = source.columns.get("text", "text")
    schema = {column: pl.String, **({reading.group_by: pl.String} if reading.group_by else {})}
    try:
        read = pl.read_ndjson(io.BytesIO(content), schema=schema)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None
    texts = read[column]
    # A number would have become a text, and of a key that stands twice one would have won.
    plain = sum(content.count(f'"{column}":{blank}"'.encode()) for blank in ("", " "))
    if plain != len(texts) or texts.null_count() or (texts.str.len_bytes() > LONGEST_ROW).any():
        return None
    group = read[reading.group_by].fill_null("") if reading.group_by else pl.lit("")
    return _table(texts, group, name)


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
