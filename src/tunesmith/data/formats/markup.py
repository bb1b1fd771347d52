"""The words of HTML pages and of Word documents. Neither reader follows a link or runs anything."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.parsers import expat

from tunesmith.core.errors import TunesmithError
from tunesmith.data.formats.unpack import member_names, members

_UNSEEN = frozenset({"script", "style", "template", "svg", "iframe"})
"""Elements whose content nobody reads."""
_BLOCKS = frozenset(
    "address article aside blockquote body caption dd details div dl dt fieldset figcaption figure footer form h1 h2 h3"
    " h4 h5 h6 header hr html li main nav ol option p pre section summary table title ul".split()
)
_BLANKS = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" *\n *")

_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_WORD_STRICT = "http://purl.oclc.org/ooxml/wordprocessingml/main"
_FALLBACK = "http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
"""Says once more, for old programs, what stands before it."""
_BODY = "word/document.xml"


class _Page(HTMLParser):
    """Collects what a reader of the page would see, an empty line between blocks."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen += 1
        elif tag in _BLOCKS:
            self._parts.append("\n\n")
        elif tag in ("br", "tr"):
            self._parts.append("\n")
        elif tag in ("td", "th"):
            self._parts.append("\t")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _UNSEEN:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSEEN:
            self._unseen = max(0, self._unseen - 1)
        elif tag in _BLOCKS:
            self._parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self._parts.append(re.sub(r"\s+", " ", data))

    def text(self) -> str:
        lines = _LINES.sub("\n", _BLANKS.sub(" ", "".join(self._parts)))
        return re.sub(r"\n{3,}", "\n\n", lines).strip()


def text_of_html(markup: str) -> str:
    """What a page says, without scripts and styles: an empty line between blocks, blanks between the cells of a row."""
    page = _Page()
    page.feed(markup)
    page.close()
    return page.text()


class _Document:
    """Collects the paragraphs of WordprocessingML while it is parsed. What was deleted under review is no part."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._inside = False
        self._doubled = 0
        self.parser = expat.ParserCreate(namespace_separator="}")
        self.parser.StartDoctypeDeclHandler = self._refuse  # entities are declared nowhere else
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._words

    def _refuse(self, *_: object) -> None:
        raise ValueError("a document type")

    def _start(self, name: str, _attributes: object) -> None:
        space, _, tag = name.rpartition("}")
        self._doubled += name == _FALLBACK
        if space not in (_WORD, _WORD_STRICT) or self._doubled:
            return
        self._inside = tag == "t"
        if tag == "tab":
            self._parts.append("\t")
        elif tag in ("br", "cr"):
            self._parts.append("\n")

    def _end(self, name: str) -> None:
        space, _, tag = name.rpartition("}")
        self._inside = False
        self._doubled -= name == _FALLBACK
        if space in (_WORD, _WORD_STRICT) and tag == "p" and not self._doubled:
            self._parts.append("\n\n")

    def _words(self, words: str) -> None:
        if self._inside:
            self._parts.append(words)

    def text(self) -> str:
        return "".join(self._parts).strip()


def text_of_docx(content: bytes, path: Path) -> str:
    """The body of a Word document, an empty line between paragraphs; headers, footers and notes are left out.

    Errors: data.broken_file, those of `member_names`.
    """
    if _BODY not in member_names(content, path):
        raise TunesmithError("data.broken_file", path=str(path), format="docx")
    document = _Document()
    try:
        for body in members(content, path, [_BODY]):
            document.parser.Parse(body.content, True)
    except (expat.ExpatError, ValueError) as error:
        raise TunesmithError("data.broken_file", path=str(path), format="docx") from error
    return document.text()
