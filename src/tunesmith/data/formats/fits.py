"""Whether files fit into memory as rows: said before they are read, as a system that runs out kills without a word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.memory import free_memory_bytes
from tunesmith.data.formats.kinds import DOCUMENTS, kind_of_file

LEAST_GROWTH = 6
"""Bytes of memory that a byte of rows takes at the least while it is read and cleaned. Measured on 40 MB of chats as
JSON lines: 7.6 (rows of 3 kB), 8.4 (the same in Chinese), 21 (rows of 190 bytes); packed files take more."""
_GIGABYTE = 1e9


def refuse_larger_than_memory(files: Sequence[Path], source: str) -> None:
    """Refuse files of rows for which even the least need is more than what is free.

    Errors: data.larger_than_memory.
    """
    size = sum(path.stat().st_size for path in files if kind_of_file(path) not in DOCUMENTS)
    needed, free = LEAST_GROWTH * size, free_memory_bytes()
    if needed > free:
        facts = {"size": size, "needed": needed, "free": free}
        shown = {name: f"{count / _GIGABYTE:.1f}" for name, count in facts.items()}
        raise TunesmithError("data.larger_than_memory", path=source, **shown)
