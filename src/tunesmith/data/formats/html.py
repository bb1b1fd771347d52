"""The words of HTML pages, in time that grows with their length alone.

Python's own parser looks for the end of a broken tag again and again: 50 kB of `<a ` take it fourteen seconds. Here
every sign is looked at once, but for tags with quotes, and those up to a length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape

_UNSEEN = frozenset({"script", "style", "template", "svg", "iframe"})
"""Elements whose content nobody reads."""
_RAW = frozenset({"script", "style", "iframe"})
"""Of these, elements in which a tag is text until their own end."""
_BLOCKS = frozenset(
    "address article aside blockquote body caption dd details div dl dt fieldset figcaption figure footer form h1 h2 h3"
    " h4 h5 h6 header hr html li main nav ol option p pre section summary table title ul".split()
)
_INSTEAD = {"br": "\n", "tr": "\n", "td": "\t", "th": "\t"}

_QUOTED_TAG = re.compile(r"<(?:[^<>\"']++|\"[^\"]*+\"|'[^']*+')*+>")
_QUOTED_WITHIN = 4096
_NAME = re.compile(r"<(?P<end>/?)(?P<name>[A-Za-z][^\s/>]*)")
_BLANKS = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" *\n *")


def text_of_html(markup: str) -> str:
    """What a page says, without scripts and styles: an empty line between blocks, blanks between the cells of a row."""
    parts: list[str] = []
    unseen = 0
    for piece in _pieces(markup):
        if piece.words:
            if not unseen:
                parts.append(re.sub(r"\s+", " ", unescape(piece.words)))
        elif piece.tag in _UNSEEN:
            unseen = max(0, unseen - 1) if piece.ends else unseen + 1
        elif piece.tag in _BLOCKS:
            parts.append("\n\n")
        elif not piece.ends:
            parts.append(_INSTEAD.get(piece.tag, ""))
    lines = _LINES.sub("\n", _BLANKS.sub(" ", "".join(parts)))
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


@dataclass(frozen=True)
class _Piece:
    """Words, or a tag and whether it ends its element."""

    words: str = ""
    tag: str = ""
    ends: bool = False


@dataclass
class _Finder:
    """Finds ends of tags and comments; what stands nowhere behind one place stands nowhere behind a later one."""

    markup: str
    _missing: set[str] = field(default_factory=set)

    def behind(self, sign: str, place: int) -> int | None:
        """The place behind the next such sign."""
        found = -1 if sign in self._missing else self.markup.find(sign, place)
        if found < 0:
            self._missing.add(sign)
            return None
        return found + len(sign)


def _pieces(markup: str) -> Iterator[_Piece]:
    finder = _Finder(markup)
    lowered = markup.lower() if len(markup.lower()) == len(markup) else markup
    ends = _Finder(lowered)
    place = 0
    while place < len(markup):
        first = markup.find("<", place)
        first = len(markup) if first < 0 else first
        if first > place:
            yield _Piece(markup[place:first])
            place = first
            continue
        last = _end_of_tag(finder, first)
        named = _NAME.match(markup, first)
        if last is None or (named is None and markup[first + 1 : first + 2] not in ("!", "?", "/")):
            yield _Piece("<")
            place = first + 1
            continue
        place = last
        if named is None:
            continue
        name = named["name"].lower()
        if markup[last - 2] == "/" and name in _UNSEEN:
            continue  # ends where it begins
        yield _Piece(tag=name, ends=named["end"] == "/")
        if name in _RAW and not named["end"]:
            close = ends.behind(f"</{name}", last)
            place = len(markup) if close is None else close - len(name) - 2


def _end_of_tag(finder: _Finder, first: int) -> int | None:
    """The place behind a tag or a comment; None where it does not end."""
    if finder.markup.startswith("<!--", first):
        return finder.behind("-->", first + 4)
    quoted = _QUOTED_TAG.match(finder.markup, first, first + _QUOTED_WITHIN)
    return quoted.end() if quoted else finder.behind(">", first)
