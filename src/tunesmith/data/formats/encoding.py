"""Bytes to text, without ever putting a replacement character in silently."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.data.formats.frequent import SIMPLIFIED, TRADITIONAL
from tunesmith.data.formats.utf16 import utf16_without_mark

# UTF-32's mark begins with UTF-16's, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LEAST_FREQUENT_SHARE = 0.35
"""Chinese prose has 0.5 to 0.8 of the frequent ones. Korean in EUC-KR and Japanese in EUC-JP also decode as GB18030,
byte for byte, and give 0.14 and 0.11: other characters, none of them meant."""
_LEAST_COMMON_SHARE = 0.9
_LEAST_CHARACTERS = 4
"""Two stray bytes also make a Chinese character; so few are no evidence of an encoding."""
_BROKEN_UTF8_SHARE = 0.75
"""From this share of bytes on the file is UTF-8 with a fault. Many pairs of GB18030 are also UTF-8: 0.35 of the bytes
of Chinese prose, and at most 0.64 of any of 3,000 single rows; UTF-8 that lost one byte keeps 0.86 and more."""
_ASCII = bytes(range(128))
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?([\w-]{2,20})", re.IGNORECASE)
_CHARSET_WITHIN = 4096
_READ_AS = {"gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs", "iso-8859-1": "cp1252", "latin-1": "cp1252"}
"""What a page states, and the larger encoding that browsers take it for."""
_PAGE_ENCODINGS = frozenset(
    "big5hkscs cp1250 cp1251 cp1252 cp1253 cp1254 cp1256 euc-jp euc-kr gb18030 iso-2022-jp iso-8859-2 iso-8859-15"
    " koi8-r shift_jis utf-8 windows-1250 windows-1251 windows-1252".split()
)


@dataclass(frozen=True)
class Text:
    """A file's text and the encoding it was in; `guessed` when nothing in the file states that encoding."""

    text: str
    encoding: str
    guessed: bool = False


def decode(content: bytes, path: Path, encoding: str = "auto", *, page: bool = False) -> Text:
    """Text of the encoding that is given; else of a byte order mark's, of UTF-8, of a page's own, or of UTF-16, GB18030
    or Big5 when only that fits.

    Errors: data.not_text (binary content), data.maybe_utf16, data.wrong_encoding (with the offset of the first wrong
    byte).
    """
    if encoding != "auto":
        return _stated(content, path, encoding)
    for mark, marked in _MARKS:
        if content.startswith(mark):
            try:
                return Text(content.decode(marked).removeprefix("\ufeff"), marked)
            except UnicodeDecodeError as error:
                # Python counts from behind the mark of UTF-8, and from the file's beginning for the others.
                offset = error.start + (len(mark) if marked == "utf-8-sig" else 0)
                raise TunesmithError("data.wrong_encoding", path=str(path), encoding=marked, offset=offset) from error
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        declared = _declared(content) if page else None
        if declared is not None:
            return _stated(content, path, declared)
        guess = _utf16(content, path) or _guess(content)
        if guess is None:
            raise TunesmithError("data.wrong_encoding", path=str(path), encoding="utf-8", offset=error.start) from error
        return guess
    if "\x00" not in text[:4096]:
        return Text(text, "utf-8")
    guess = _utf16(content, path)
    if guess is None:
        raise TunesmithError("data.not_text", path=str(path))
    return guess


def _stated(content: bytes, path: Path, encoding: str) -> Text:
    try:
        return Text(content.decode(encoding).removeprefix("\ufeff"), encoding)
    except UnicodeDecodeError as error:
        raise TunesmithError("data.wrong_encoding", path=str(path), encoding=encoding, offset=error.start) from error


def _utf16(content: bytes, path: Path) -> Text | None:
    """Errors: data.maybe_utf16 where zeros stand as in UTF-16 and the text is not plainly Chinese or English."""
    found = utf16_without_mark(content)
    if found is None:
        return None
    if found == "doubtful":
        raise TunesmithError("data.maybe_utf16", path=str(path))
    return Text(content.decode(found), found, guessed=True)


def _declared(content: bytes) -> str | None:
    """The encoding in the head of a page; None where there is none, or none that is known."""
    found = _CHARSET.search(content[:_CHARSET_WITHIN])
    if found is None:
        return None
    name = found[1].decode("ascii").lower()
    name = _READ_AS.get(name, name)
    return name if name in _PAGE_ENCODINGS else None


def _guess(content: bytes) -> Text | None:
    """The text if it is plausible Chinese; None for other encodings that also decode, and for UTF-8 with a broken byte.

    Common characters have both bytes above 0xA0 in GB2312 and stand in the first half of Big5; accidental pairs end in
    an ASCII letter or are rare.
    """
    if _share_read_as_utf8(content) >= _BROKEN_UTF8_SHARE:
        return None
    for encoding, is_common, frequent in (("gb18030", _in_gb2312, SIMPLIFIED), ("big5", _in_first_half, TRADITIONAL)):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if _plausible(text, is_common, frequent):
            return Text(text, encoding, guessed=True)
    return None


def _plausible(text: str, is_common: Callable[[str], bool], frequent: frozenset[str]) -> bool:
    wide = {character: count for character, count in Counter(text).items() if ord(character) > 127}
    total = sum(wide.values())
    common = sum(count for character, count in wide.items() if is_common(character))
    letters = sum(count for character, count in wide.items() if character.isalpha())
    often = sum(count for character, count in wide.items() if character in frequent)
    return (
        total >= _LEAST_CHARACTERS
        and common >= _LEAST_COMMON_SHARE * total
        and often >= _LEAST_FREQUENT_SHARE * letters
    )


def _share_read_as_utf8(content: bytes) -> float:
    """Share of the bytes above 0x7F that stand in whole UTF-8 characters."""
    high = len(content.translate(None, _ASCII))
    whole = len(content.decode("utf-8", "ignore").encode().translate(None, _ASCII))
    return whole / high if high else 0.0


def _in_gb2312(character: str) -> bool:
    try:
        character.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True


def _in_first_half(character: str) -> bool:
    """Whether Big5 has it among the signs and the 5,401 characters of its first level."""
    try:
        return character.encode("big5")[0] <= 0xC6
    except UnicodeEncodeError:
        return False
