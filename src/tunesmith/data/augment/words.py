"""Text as words and what stands between them, so that words can be changed and the text be put together again.

A word is a run of letters, or a dictionary's word in Chinese text (longest match forward; a character that begins none
stands alone). Whatever holds digits or signs of addresses, code and templates is no word and is never touched.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass

_HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_PIECE = re.compile(
    rf"(?P<kept>\S*[@/\\_{{}}<>`=\d]\S*)|(?P<han>[{_HAN}]+)|(?P<word>(?:(?![{_HAN}])[^\W\d_])+(?:['’-](?:(?![{_HAN}])[^\W\d_])+)*)|"
    r"(?P<between>\s+|.)",
    re.DOTALL,
)
_LONGEST_WORD = 8


@dataclass(frozen=True)
class Piece:
    """A part of a text. `word` says that it may be changed, `chinese` that no blanks stand around it."""

    text: str
    word: bool = False
    chinese: bool = False


def pieces(text: str, chinese_words: Container[str] = ()) -> list[Piece]:
    """The parts of a text in order; joined they are the text."""
    found: list[Piece] = []
    for match in _PIECE.finditer(text):
        if match["han"]:
            found += [Piece(word, True, True) for word in _chinese(match["han"], chinese_words)]
        else:
            found.append(Piece(match[0], match["word"] is not None))
    return found


def _chinese(run: str, known: Container[str]) -> list[str]:
    found, start = [], 0
    while start < len(run):
        sizes = range(min(_LONGEST_WORD, len(run) - start), 1, -1)
        size = next((each for each in sizes if run[start : start + each] in known), 1)
        found.append(run[start : start + size])
        start += size
    return found


def joined(parts: Sequence[Piece]) -> str:
    """The text of parts."""
    return "".join(part.text for part in parts)


def cased(word: str, like: str) -> str:
    """A word with capitals as another one has them."""
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word
