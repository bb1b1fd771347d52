"""UTF-16 without a byte order mark: told by what it reads as, for every pair of bytes is also a character of something.

Blanks, digits and brackets are two bytes of which one is zero, and always the same one; Chinese text is full of a few
hundred characters. Read the wrong way round, neither holds: the zeros become characters that nobody writes.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections import Counter
from typing import Literal

from tunesmith.data.formats.frequent import SIMPLIFIED, TRADITIONAL

Found = Literal["utf-16-le", "utf-16-be", "doubtful"]

_LOOKED_AT = 1 << 16
"""Bytes at the beginning that are looked at."""
_LEAST_CHARACTERS = 4
_LEAST_ASCII_SHARE = 0.7
"""Of English and of rows whose keys are most of them; blanks and brackets alone are 0.2 of other alphabets."""
_LEAST_FREQUENT_SHARE = 0.35
"""Of the letters behind ASCII: Chinese prose has 0.5 to 0.8 of the frequent ones."""
_LEAST_ZERO_SHARE = 0.02
_ONE_SIDE = 8
"""How much more zeros must stand on one side of the pairs for UTF-16."""
_MOST_STRANGE = 0.01
"""Of characters that no text has: real files hold a few. The wrong way round, Chinese gives one in ten."""
_PLAIN = frozenset("\t\n\r\f")
_NO_TEXT = frozenset({"Cc", "Cn", "Co", "Cs"})
"""Control characters, what Unicode has not given away, and what is for private use."""
_BOTH = SIMPLIFIED | TRADITIONAL


def utf16_without_mark(content: bytes) -> Found | None:
    """Which UTF-16 the bytes are; "doubtful" where they look like it and are not plainly Chinese or English text."""
    fits: list[Found] = [each for each in ("utf-16-le", "utf-16-be") if _reads_as_text(content, each)]
    if len(fits) == 1 and _whole(content, fits[0]):
        return fits[0]
    return "doubtful" if fits or _zeros_on_one_side(content[:_LOOKED_AT]) else None


def _whole(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _reads_as_text(content: bytes, encoding: str) -> bool:
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(content[:_LOOKED_AT])
    except UnicodeDecodeError:
        return False
    counted = Counter(text)
    strange = sum(
        count for each, count in counted.items() if each not in _PLAIN and unicodedata.category(each) in _NO_TEXT
    )
    if len(text) < _LEAST_CHARACTERS or "\0" in counted or strange > _MOST_STRANGE * len(text):
        return False
    ascii_share = sum(count for each, count in counted.items() if ord(each) < 128) / len(text)
    letters = sum(count for each, count in counted.items() if ord(each) > 127 and each.isalpha())
    often = sum(count for each, count in counted.items() if each in _BOTH)
    chinese = letters >= _LEAST_CHARACTERS and often >= _LEAST_FREQUENT_SHARE * letters
    return ascii_share >= _LEAST_ASCII_SHARE or chinese


def _zeros_on_one_side(content: bytes) -> bool:
    even, odd = content[::2].count(0), content[1::2].count(0)
    return max(even, odd) >= max(_LEAST_CHARACTERS, _LEAST_ZERO_SHARE * len(content)) and max(
        even, odd
    ) >= _ONE_SIDE * min(even, odd)
