"""Children that need no model: synonyms and random edits of each training row."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import polars as pl

from tunesmith.data.augment.children import Child, Row, asked_text, chance_of, with_asked_text
from tunesmith.data.augment.edits import with_insertions, with_omissions, with_swaps, with_synonyms
from tunesmith.data.augment.thesaurus import Thesaurus
from tunesmith.data.augment.words import Piece, joined, pieces
from tunesmith.recipe.specs.augment import EditSpec, SynonymsSpec

_OUTSIDE = "O"
_Change = Callable[[Sequence[Piece], random.Random], list[Piece] | None]


def synonym_children(frame: pl.DataFrame, spec: SynonymsSpec, thesaurus: Thesaurus, seed: int) -> Iterator[Child]:
    """Each row with some words replaced; a row without a known word gets no child."""

    def change(parts: Sequence[Piece], chance: random.Random) -> list[Piece] | None:
        return with_synonyms(parts, spec.share, thesaurus, chance)

    for row in frame.iter_rows(named=True):
        for number in range(spec.children):
            chance = chance_of(seed, "synonyms", row, number)
            made = _of_tokens(row, change, chance) if row["tokens"] else _of_text(row, change, chance, thesaurus)
            if made is not None:
                yield Child(int(row["row"]), made)


def edit_children(frame: pl.DataFrame, spec: EditSpec, thesaurus: Thesaurus | None, seed: int) -> Iterator[Child]:
    """Each row with one edit, drawn among those that the spec has a share for."""
    changes: list[_Change] = []
    if spec.swap:
        changes.append(lambda parts, chance: with_swaps(parts, spec.swap, chance))
    if spec.delete:
        changes.append(lambda parts, chance: with_omissions(parts, spec.delete, chance))
    if spec.insert and thesaurus is not None:
        changes.append(lambda parts, chance: with_insertions(parts, spec.insert, thesaurus, chance))
    for row in frame.iter_rows(named=True):
        for number in range(spec.children):
            chance = chance_of(seed, "edit", row, number)
            made = _of_text(row, chance.choice(changes), chance, thesaurus)
            if made is not None:
                yield Child(int(row["row"]), made)


def _of_text(row: Row, change: _Change, chance: random.Random, known: Thesaurus | None) -> Row | None:
    changed = change(pieces(asked_text(row), known or ()), chance)
    text = joined(changed).strip() if changed is not None else ""
    return with_asked_text(row, text) if text else None


def _of_tokens(row: Row, change: _Change, chance: random.Random) -> Row | None:
    """Tokens outside of entities, each of which stays one token."""
    tokens, tags = row["tokens"], row["labels"]
    if not isinstance(tokens, Sequence) or not isinstance(tags, Sequence):
        return None
    parts = [Piece(token, tag == _OUTSIDE and token.isalpha()) for token, tag in zip(tokens, tags, strict=True)]
    changed = change(parts, chance)
    if changed is None or any(
        len(part.text.split()) != 1 for part, tag in zip(changed, tags, strict=True) if part.word
    ):
        return None
    return {**row, "tokens": [part.text for part in changed]}
