"""Rows that nothing was learned from, read out of their files again: what they say, and why they went."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import STILL_USED, Ledger
from tunesmith.core.types import RowKind
from tunesmith.data.formats.files import list_files, read_files
from tunesmith.data.formats.read import manner_of
from tunesmith.data.formats.rows import RawRow, Unread
from tunesmith.data.media.kinds import MEDIA_KINDS
from tunesmith.data.media.read import media_files
from tunesmith.data.prepare import sources_in_order
from tunesmith.recipe.places import local_path
from tunesmith.recipe.specs.data import DataSpec, SourceSpec


def rejected_rows(
    spec: DataSpec, recipe_folder: Path, ledger: Ledger, beside: Iterable[SourceSpec] = ()
) -> Iterator[str]:
    """A line of JSON for every dropped or merged row: its place, fate and reason, and the row as its file has it.

    A row that could be read stands as `content`; one that could not, as the text `original`.

    Args:
        beside: sources that stages name, which the ledger numbers last.

    Errors: data.source_changed where the files do not hold the rows of the ledger any more, those of `read_file`.
    """
    entries = [entry for entry in ledger.entries() if entry.parent is None]  # no file holds the others
    number = 0
    for source in (*(each for _, each in sources_in_order(spec)), *beside):
        name = source.title
        for path, row in _rows(source, recipe_folder, spec.kind_of(name)):
            if number >= len(entries) or entries[number].source != name:
                raise TunesmithError("data.source_changed", path=source.address)
            entry = entries[number]
            if entry.fate not in STILL_USED:
                yield _line({**entry.facts(), "file": path.name}, row)
            number += 1
    if number != len(entries):
        raise TunesmithError("data.source_changed", path=spec.sources[0].address)


def _rows(source: SourceSpec, folder: Path, kind: RowKind) -> Iterator[tuple[Path, RawRow]]:
    if kind in MEDIA_KINDS:
        yield from (
            (file.path, row) for file in media_files(source, local_path(source, folder), kind)[0] for row in file.rows
        )
        return
    for path in list_files(local_path(source, folder), source.split)[0]:
        for file in read_files(path, manner_of(source)):
            yield from ((file.path, row) for row in file.rows)


def _line(facts: Mapping[str, object], row: RawRow) -> str:
    said = {"original": row.original} if isinstance(row, Unread) else {"content": row}
    for readable in (True, False):  # half of a character can only be written escaped
        line = json.dumps({**facts, **said}, ensure_ascii=not readable, default=str)
        if _encodable(line):
            break
    return line


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
