"""Pictures with their boxes and sounds with their outlines as SVG that fetches nothing."""

from __future__ import annotations

import base64
import html
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.core.types import Box, Media
from tunesmith.data.formats.extras import needed
from tunesmith.data.media.images import FORMS
from tunesmith.data.media.sounds import samples_of

SIDE = 640
"""Pixels of the longer side of a copy."""
_COLUMNS = 400
"""Of the outline of a sound."""
_COLOURS = ("#1f6f78", "#b4472f", "#5b4b9a", "#8a6d1d", "#2f6f3e", "#a03a7a")


@dataclass(frozen=True)
class Drawing:
    """What stands in an SVG of a width and a height in units of its own."""

    width: int
    height: int
    inner: str

    def svg(self, width: int, height: int | None = None, place: tuple[int, int] = (0, 0)) -> str:
        """The drawing so many pixels wide, and high as its shape says unless that is stated."""
        tall = max(1, round(width * self.height / self.width)) if height is None else height
        return (
            f'<svg x="{place[0]}" y="{place[1]}" viewBox="0 0 {self.width} {self.height}" width="{width}"'
            f' height="{tall}" preserveAspectRatio="none" role="img">{self.inner}</svg>'
        )


def drawing_of(
    content: bytes, media: Media, boxes: Sequence[Box], side: int = SIDE, known: Sequence[str] = ()
) -> Drawing:
    """A picture with its boxes, or the outline of a sound.

    Args:
        side: pixels of the longer side of the copy in it.
        known: labels whose boxes have a colour each, in this order; none: those of these boxes.
    """
    if not media.width:
        return _outline(content)
    labels = known or sorted({box.label for box in boxes})
    colours = {label: _COLOURS[place % len(_COLOURS)] for place, label in enumerate(labels)}
    line = max(media.width, media.height) / 300
    rectangles = "".join(_rectangle(box, colours[box.label], line) for box in boxes)
    copy = f'<image width="{media.width}" height="{media.height}" href="{_copy(content, side)}"/>'
    return Drawing(media.width, media.height, copy + rectangles)


def _rectangle(box: Box, colour: str, line: float) -> str:
    dashes = f' stroke-dasharray="{2 * line:.2f}"' if box.ignored else ""
    return (
        f'<rect x="{box.x:.2f}" y="{box.y:.2f}" width="{box.width:.2f}" height="{box.height:.2f}" fill="none"'
        f' stroke="{colour}" stroke-width="{line:.2f}"{dashes}><title>{html.escape(box.label)}</title></rect>'
    )


def _copy(content: bytes, side: int) -> str:
    """A small copy, turned as its file says, as a data address."""
    pillow, turned = needed("PIL.Image", "media", "pictures"), needed("PIL.ImageOps", "media", "pictures")
    # Odd notes of a camera are no news here: the row was told of, or refused, when it was read.
    with warnings.catch_warnings(action="ignore"), pillow.open(io.BytesIO(content), formats=FORMS) as picture:
        small = turned.exif_transpose(picture).convert("RGB")
    small.thumbnail((side, side))
    copied = io.BytesIO()
    small.save(copied, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(copied.getvalue()).decode()


def _outline(content: bytes) -> Drawing:
    """The loudest sample of each column's time, up and down."""
    samples_N = np.abs(samples_of(content)[0]).max(axis=1)
    parts = np.array_split(samples_N, min(_COLUMNS, len(samples_N)))
    bars = "".join(
        f'<rect x="{place}" y="{50 - 50 * loud:.1f}" width="1" height="{max(0.4, 100 * loud):.1f}"/>'
        for place, loud in enumerate(float(part.max()) for part in parts)
    )
    return Drawing(len(parts), 100, f'<g fill="{_COLOURS[0]}">{bars}</g>')
