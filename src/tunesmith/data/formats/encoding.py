"""Bytes to text, without ever putting a replacement character in silently."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path

from tunesmith.core.errors import TunesmithError

# UTF-32's mark begins with UTF-16's, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LEAST_COMMON_SHARE = 0.9
_LEAST_CHARACTERS = 4
"""Two stray bytes also make a Chinese character; so few are no evidence of an encoding."""
_BROKEN_UTF8_SHARE = 0.75
"""From this share of bytes on the file is UTF-8 with a fault. Many pairs of GB18030 are also UTF-8: 0.35 of the bytes
of Chinese prose, and at most 0.64 of any of 3,000 single rows; UTF-8 that lost one byte keeps 0.86 and more."""


@dataclass(frozen=True)
class Text:
    """A file's text and the encoding it was in; `guessed` when nothing in the file states that encoding."""

    text: str
    encoding: str
    guessed: bool = False


def decode(content: bytes, path: Path) -> Text:
    """Text of UTF-8, of what a byte order mark states, or of GB18030 when only that fits.

    Errors: data.not_text (binary content), data.wrong_encoding (with the offset of the first wrong byte).
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            try:
                return Text(content.decode(encoding).removeprefix("\ufeff"), encoding)
            except UnicodeDecodeError as error:
                raise TunesmithError(
                    "data.wrong_encoding", path=str(path), encoding=encoding, offset=error.start
                ) from error
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        chinese = _as_gb18030(content)
        if chinese is None:
            raise TunesmithError("data.wrong_encoding", path=str(path), encoding="utf-8", offset=error.start) from error
        return Text(chinese, "gb18030", guessed=True)
    if "\x00" in text[:4096]:
        raise TunesmithError("data.not_text", path=str(path))
    return Text(text, "utf-8")


def _as_gb18030(content: bytes) -> str | None:
    """The text if it is plausible Chinese; None for Latin-1, which also decodes, and for UTF-8 with a broken byte.

    GB2312 holds the common characters, both bytes above 0xA0; accidental pairs end in an ASCII letter or are rare.
    """
    try:
        text = content.decode("gb18030")
    except UnicodeDecodeError:
        return None
    wide = [character for character in text if ord(character) > 127]
    common = sum(1 for character in wide if _in_gb2312(character))
    plausible = len(wide) >= _LEAST_CHARACTERS and common >= _LEAST_COMMON_SHARE * len(wide)
    return text if plausible and _share_read_as_utf8(content) < _BROKEN_UTF8_SHARE else None


def _share_read_as_utf8(content: bytes) -> float:
    """Share of the bytes above 0x7F that stand in whole UTF-8 characters."""
    high = sum(1 for byte in content if byte > 127)
    whole = sum(len(character.encode()) for character in content.decode("utf-8", "ignore") if ord(character) > 127)
    return whole / high if high else 0.0


def _in_gb2312(character: str) -> bool:
    try:
        character.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True
