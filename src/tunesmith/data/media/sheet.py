"""A contact sheet: rows as they were read, and beside each what was made of it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tunesmith.core.types import Example
from tunesmith.data.media.content import MediaPlaces
from tunesmith.data.media.drawn import drawing_of
from tunesmith.data.media.page import labels_of, size_of

_SIDE = 220
_GAP = 12
_LINE = 18
"""Pixels of one picture, between two, and of a line of words."""
_LONGEST = 30
"""Characters of labels or words that are shown of a row."""


@dataclass(frozen=True)
class Made:
    """A row that was made, and those that it was made from: one, or two where pictures were mixed."""

    child: Example
    parents: tuple[Example, ...]


def made_rows(examples: Mapping[int, Example], reasons: Mapping[int, str], others: Mapping[int, int]) -> Iterator[Made]:
    """Rows that were made of pictures and sounds, each with what it was made from.

    Args:
        examples: rows by their numbers.
        reasons: of the rows that were made, the ledger's reason.
        others: of rows that were made from two, the second one.
    """
    for number in reasons:
        child = examples.get(number)
        first = None if child is None or child.parent is None else examples.get(child.parent)
        if child is None or first is None or child.media is None:
            continue
        second = examples.get(others.get(number, -1))
        yield Made(child, (first,) if second is None else (first, second))


def contact_sheet(rows: Iterable[Made], places: MediaPlaces) -> str:
    """One SVG: a line each, before on the left, after on the right, with boxes, labels and sizes.

    Errors: data.source_changed, data.not_kept, data.extra_missing.
    """
    figures: list[str] = []
    top, lines = 0, [(*made.parents, made.child) for made in rows]
    labels = sorted({box.label for shown in lines for each in shown for box in each.boxes})
    for shown in lines:
        height = 0
        for place, each in enumerate(shown):
            figure, tall = _figure(each, places, labels)
            left = place * (_SIDE + _GAP)
            figures.append(f'<svg x="{left}" y="{top}" width="{_SIDE}" height="{tall}">{figure}</svg>')
            height = max(height, tall)
        top += height + _GAP
    across = 3 * _SIDE + 2 * _GAP
    return (
        f'<svg class="contact-sheet" viewBox="0 0 {across} {top}" width="{across}" role="img" fill="currentColor"'
        f' font-size="12">{"".join(figures)}</svg>'
    )


def _figure(example: Example, places: MediaPlaces, labels: list[str]) -> tuple[str, int]:
    """A row under its labels and its size, and how many pixels it is high."""
    media = example.media
    if media is None:
        raise ValueError("a row without a picture or a sound")
    seen = drawing_of(places.content(example.origin.source, media), media, example.boxes, _SIDE, labels)
    scale = _SIDE / max(media.width, media.height) if media.width else 1.0
    width, height = (round(media.width * scale), round(media.height * scale)) if media.width else (_SIDE, _SIDE // 4)
    said = labels_of(example) or example.text
    words = f'<text y="{_LINE - 5}">{example.row} · {html.escape(said[:_LONGEST])}</text>'
    words += f'<text y="{2 * _LINE - 5}" opacity="0.6">{html.escape(size_of(media))}</text>'
    return words + seen.svg(max(1, width), max(1, height), (0, 2 * _LINE)), height + 2 * _LINE
