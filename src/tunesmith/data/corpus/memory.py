"""How many parts of a corpus the memory at hand carries at a time.

One process was seen to hold 0.41 GB over pieces of 32 MiB with rows of 3 kB, and 0.75 with rows of 100 bytes, the
program itself included: 16 bytes a byte beside it cover both. What the first process holds of all rows (about 1.2 kB
of each) is not in it: it is needed when the parts are done.
"""

from __future__ import annotations

from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.memory import free_memory_bytes
from tunesmith.core.process import available_cores
from tunesmith.data.corpus.inputs import inputs_of
from tunesmith.data.corpus.pieces import PIECE_BYTES, largest_piece
from tunesmith.data.corpus.plan import refuse
from tunesmith.recipe.specs.data import DataSpec

_PROGRAM = 1 << 28
_BYTES_A_BYTE = 16


def process_bytes(spec: DataSpec, recipe_folder: Path, piece_bytes: int = PIECE_BYTES) -> int:
    """Memory that one process needs for a part of these sources. Errors: those of `refuse` and `inputs_of`."""
    refuse(spec)
    return _PROGRAM + _BYTES_A_BYTE * largest_piece(inputs_of(spec.sources, recipe_folder), piece_bytes)


def processes_for(needed: int) -> int:
    """One process a core, or as many as the memory that is left carries, in this container's limit.

    Errors: corpus.too_little_memory where it carries not even one.
    """
    free = free_memory_bytes()
    if free < needed:
        raise TunesmithError("corpus.too_little_memory", needed_mb=-(-needed // 2**20), free_mb=free // 2**20)
    return min(available_cores(), free // needed)
