"""Running text cut into rows: whole paragraphs as long as they fit together, nothing left out."""

from __future__ import annotations

import re
from collections.abc import Iterator

_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n\s*")
_CUTS = (re.compile(r"\n"), re.compile(r"[。！？!?…]+[”’」』)]*|\.(?=\s)"), re.compile(r"[；;，,、]|\s"))
"""Where a paragraph that is too long may end, best first: a line, a sentence, a part of one."""


def passages(text: str, longest: int) -> Iterator[str]:
    """Passages of at most `longest` characters, in order.

    Paragraphs (an empty line stands between) are put together as long as they fit. One that is longer alone is cut
    behind its last line, sentence, or word that fits. Only blanks between passages are lost.
    """
    held = ""
    for paragraph in _PARAGRAPH_END.split(text.replace("\r\n", "\n").replace("\r", "\n")):
        for piece in _pieces(paragraph.strip(), longest):
            if held and len(held) + 2 + len(piece) <= longest:
                held = f"{held}\n\n{piece}"
                continue
            if held:
                yield held
            held = piece
    if held:
        yield held


def _pieces(paragraph: str, longest: int) -> Iterator[str]:
    first = 0
    while len(paragraph) - first > longest:
        last = first + _cut(paragraph[first : first + longest])
        piece = paragraph[first:last].strip()
        if piece:
            yield piece
        first = last
    if rest := paragraph[first:].strip():
        yield rest


def _cut(window: str) -> int:
    """Length of the longest beginning that ends well; of the whole window where nothing in its second half does."""
    for rule in _CUTS:
        ends = [found.end() for found in rule.finditer(window) if found.end() > len(window) // 2]
        if ends:
            return ends[-1]
    return len(window)
