"""Children by words alone: synonyms, swaps, omissions and insertions (EDA: Wei and Zou 2019, 1901.11196).

Each function takes a text as pieces and a source of chance, and returns new pieces, None where nothing could change.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from tunesmith.data.augment.thesaurus import Thesaurus
from tunesmith.data.augment.words import Piece, cased, joined


def with_synonyms(
    parts: Sequence[Piece], share: float, thesaurus: Thesaurus, chance: random.Random
) -> list[Piece] | None:
    """A share of the words, at least one, replaced by one of their synonyms (SR)."""
    known = [place for place in _words(parts) if thesaurus.of(parts[place].text)]
    wanted = _count(parts, share)
    chosen = chance.sample(known, min(wanted, len(known)))
    changed = list(parts)
    for place in sorted(chosen):
        word = parts[place].text
        changed[place] = Piece(cased(chance.choice(thesaurus.of(word)), word), True, parts[place].chinese)
    return _changed(parts, changed)


def with_swaps(parts: Sequence[Piece], share: float, chance: random.Random) -> list[Piece] | None:
    """Two words exchanged, as often as the share says (RS); blanks and signs between them stay where they are."""
    places = _words(parts)
    if len(places) < 2:
        return None
    changed = list(parts)
    for _ in range(_count(parts, share)):
        one, other = chance.sample(places, 2)
        changed[one], changed[other] = changed[other], changed[one]
    return _changed(parts, changed)


def with_omissions(parts: Sequence[Piece], probability: float, chance: random.Random) -> list[Piece] | None:
    """Each word left out with a probability, with the blank behind it (RD); one word stays in any case."""
    places = _words(parts)
    if len(places) < 2:
        return None
    gone = {place for place in places if chance.random() < probability}
    if len(gone) == len(places):
        gone.discard(chance.choice(places))
    gone |= {place + 1 for place in gone if place + 1 < len(parts) and parts[place + 1].text.isspace()}
    return _changed(parts, [part for place, part in enumerate(parts) if place not in gone])


def with_insertions(
    parts: Sequence[Piece], share: float, thesaurus: Thesaurus, chance: random.Random
) -> list[Piece] | None:
    """Synonyms of words of the text put in before other words of it (RI)."""
    places = _words(parts)
    known = [place for place in places if thesaurus.of(parts[place].text)]
    if not known:
        return None
    changed: dict[int, list[Piece]] = {}
    for _ in range(_count(parts, share)):
        source = parts[chance.choice(known)]
        word = chance.choice(thesaurus.of(source.text))
        blank = "" if source.chinese else " "
        changed.setdefault(chance.choice(places), []).append(Piece(word + blank))
    return [each for place, part in enumerate(parts) for each in (*changed.get(place, ()), part)]


def _words(parts: Sequence[Piece]) -> list[int]:
    return [place for place, part in enumerate(parts) if part.word]


def _count(parts: Sequence[Piece], share: float) -> int:
    """Words that a share stands for: at least one, as in EDA's own code."""
    return max(1, int(share * sum(part.word for part in parts)))


def _changed(before: Sequence[Piece], after: list[Piece]) -> list[Piece] | None:
    return after if joined(after) != joined(before) else None
