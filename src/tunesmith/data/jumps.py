"""Hints that the engine of polars jumps through: it looks for a few first letters by vector instructions alone.

It gives that up for a class of more than ten characters, and then walks through every letter at 0.6 GB/s. The same
class in groups of ten is read at 3 to 10 GB/s, as long as there are some sixty first letters at most (measured with
polars 2.1).
"""

from __future__ import annotations

import re

_GROUP = 10


def led_by(characters: str, rest: str) -> str:
    """A regular expression for one of these characters with `rest` behind it."""
    groups = (characters[first : first + _GROUP] for first in range(0, len(characters), _GROUP))
    return "(?:" + "|".join(f"[{re.escape(group)}]{rest}" for group in groups) + ")"


def characters(first: int, last: int) -> str:
    """The characters of a range of code points, both ends included."""
    return "".join(map(chr, range(first, last + 1)))
