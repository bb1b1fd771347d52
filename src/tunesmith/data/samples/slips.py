"""Slips of the hand: neighbouring keys, dropped, doubled and swapped letters, lost capitals and full stops."""

from __future__ import annotations

import random
import re

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {
    letter: "".join(row[max(place - 1, 0) : place] + row[place + 1 : place + 2])
    for row in _ROWS
    for place, letter in enumerate(row)
}
_SHORTEST_WORD = 5
_WORD = re.compile(rf"\b[a-z]{{{_SHORTEST_WORD},}}\b")


def slip(word: str, draw: random.Random) -> str:
    """The word with one slip behind its first letter, so that a reader still knows it."""
    place = draw.randrange(1, len(word) - 1)
    kind = draw.choice(("drop", "double", "swap", "neighbour"))
    if kind == "drop":
        return word[:place] + word[place + 1 :]
    if kind == "double":
        return word[:place] + word[place] + word[place:]
    if kind == "swap":
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    return word[:place] + draw.choice(_NEIGHBOURS.get(word[place], word[place])) + word[place + 1 :]


def scuff(text: str, draw: random.Random, *, keep: str) -> str:
    """Make a clean message look typed in a hurry. `keep` (an order number) is never changed, but for its case."""
    if draw.random() < 0.35:
        words = [match for match in _WORD.finditer(text) if match.group() not in keep]
        chosen = draw.sample(words, min(len(words), draw.choice((1, 1, 2))))
        for match in sorted(chosen, key=lambda match: -match.start()):
            text = text[: match.start()] + slip(match.group(), draw) + text[match.end() :]
    if draw.random() < 0.15:
        text = text.lower()
    if draw.random() < 0.1:
        text = text.rstrip(".!")
    if draw.random() < 0.06:
        text = text.replace("'", "").replace(",", "")
    if draw.random() < 0.04:
        text = text.replace(". ", "... ")
    return text
