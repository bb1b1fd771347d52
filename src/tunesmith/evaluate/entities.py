"""Entities in a row of tags, and how many of them were found.

Tags are BIO or BIOES. As in conlleval (the CoNLL-2000 script) and seqeval's default, an entity also begins where an
`I-x` follows nothing of its kind: what a model says is read generously, right and wrong answers alike.
"""

from __future__ import annotations

from collections.abc import Sequence

Entity = tuple[str, int, int]
"""Kind, first token, token behind the last."""


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """The entities of a row, in order."""
    found: list[Entity] = []
    first, kind = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        mark, _, name = tag.partition("-")
        if kind and (mark in ("O", "B", "S") or name != kind):
            found.append((kind, first, place))
            kind = ""
        if mark != "O" and not kind:
            first, kind = place, name
        if kind and mark in ("E", "S"):
            found.append((kind, first, place + 1))
            kind = ""
    return found


def f1(right: float, answered: float, wanted: float) -> float:
    """2 right / (answered + wanted): the harmonic mean of precision and recall; 1 where nothing was to be found."""
    return 2 * right / (answered + wanted) if answered + wanted else 1.0
