"""Whether files fit into memory as rows: said before they are read, as a system that runs out kills without a word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.memory import free_memory_bytes
from tunesmith.data.formats.files import list_files
from tunesmith.data.formats.kinds import DOCUMENTS, kind_of_file
from tunesmith.recipe.places import local_path
from tunesmith.recipe.specs.sources import SourceSpec

BYTES_A_BYTE = 6
BYTES_A_ROW = 1500
"""Memory that rows take at the least while they are read and cleaned. Measured, bytes a byte of the file (what these
two say): chats of 3 kB as JSON lines 7.6 (6.5), the same in Chinese 8.4 (6.5), chats of 190 bytes 21 (14), texts of 100
bytes with a class as CSV 24 (21). Packed files and tables of columns take more for each of their bytes."""
_OF_LINES = (".jsonl", ".ndjson", ".csv", ".tsv")
_LOOKED_AT = 1 << 20
"""Bytes from whose lines the number of rows is guessed."""
_GIGABYTE = 1e9


def refuse_larger_than_memory(files: Sequence[Path], source: str) -> None:
    """Refuse files of rows for which even the least need is more than what is free.

    Errors: data.larger_than_memory.
    """
    rows = [path for path in files if kind_of_file(path) not in DOCUMENTS]
    try:
        needed, free = sum(map(least_memory, rows)), free_memory_bytes()
    except OSError:  # whoever reads the file says what is wrong with it
        return
    if needed > free:
        facts = {"size": sum(path.stat().st_size for path in rows), "needed": needed, "free": free}
        shown = {name: f"{count / _GIGABYTE:.1f}" for name, count in facts.items()}
        raise TunesmithError("data.larger_than_memory", path=source, **shown)


def refuse_together_larger_than_memory(sources: Iterable[SourceSpec], folder: Path) -> None:
    """The same of all sources that will lie in memory beside each other, before the first is read.

    What is wrong with one of them is said by whoever reads it. Errors: data.larger_than_memory.
    """
    files: dict[Path, str] = {}
    for source in sources:
        try:
            files |= dict.fromkeys(list_files(local_path(source, folder), source.split)[0], source.address)
        except TunesmithError:
            continue
    refuse_larger_than_memory(list(files), ", ".join(dict.fromkeys(files.values())))


def least_memory(path: Path) -> int:
    """Bytes that the rows of a file take at the least."""
    size = path.stat().st_size
    needed = BYTES_A_BYTE * size
    if path.suffix.lower() in _OF_LINES and size > _LOOKED_AT:
        with path.open("rb") as file:
            needed += BYTES_A_ROW * size * file.read(_LOOKED_AT).count(b"\n") // _LOOKED_AT
    return needed
