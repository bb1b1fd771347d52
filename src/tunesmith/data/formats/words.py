"""Words that stand for yes, whoever wrote them."""

from __future__ import annotations

_YES = frozenset({"true", "1", "1.0", "yes", "y", "t"})


def says_yes(value: object) -> bool:
    """Whether a value of a column means yes; everything else, and nothing at all, is a no."""
    return str(value).strip().lower() in _YES
