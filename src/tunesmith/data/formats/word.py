"""The words of Word documents. The reader follows no link, unfolds no entity and runs nothing."""

from __future__ import annotations

from pathlib import Path
from xml.parsers import expat

from tunesmith.core.errors import TunesmithError
from tunesmith.data.formats.unpack import member_names, members

_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_WORD_STRICT = "http://purl.oclc.org/ooxml/wordprocessingml/main"
_FALLBACK = "http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
"""Says once more, for old programs, what stands before it."""
_BODY = "word/document.xml"


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
