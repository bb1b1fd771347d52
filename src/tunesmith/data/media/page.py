"""Pictures with their boxes and sounds with their outlines on one page: what is learned from, as people see it.

The page holds small copies, fetches nothing, runs no script and says so to the browser; names and labels are escaped.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path
from string import Template

import numpy as np

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import sha256_file
from tunesmith.core.types import Box, Example, Media
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.extras import needed
from tunesmith.data.media.kinds import SOUNDS
from tunesmith.data.media.places import inside
from tunesmith.data.media.sounds import samples_of
from tunesmith.messages import say

_SIDE = 640
"""Pixels of the longer side of a copy."""
_COLUMNS = 400
"""Of the outline of a sound."""
_COLOURS = ("#1f6f78", "#b4472f", "#5b4b9a", "#8a6d1d", "#2f6f3e", "#a03a7a")
_PAGE = Template("""<!doctype html>
<html><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<title>$title</title><style>
body{max-width:1020px;margin:0 auto;padding:28px 20px;font:15px/1.5 system-ui,sans-serif}
figure{margin:0 0 28px}svg{max-width:100%;height:auto}figcaption{overflow-wrap:anywhere;color:#5b6770}
</style></head><body><h1>$title</h1>
$figures
</body></html>
""")


def media_page(title: str, rows: Iterable[tuple[Path, Example]]) -> str:
    """The page of some rows, each with the folder that its file lies in.

    Errors: data.source_changed where a file is no more the one that was read, data.extra_missing.
    """
    figures = (_figure(root, example) for root, example in rows)
    return _PAGE.substitute(title=html.escape(title), figures="\n".join(figures))


def _figure(root: Path, example: Example) -> str:
    media = example.media
    if media is None:
        raise ValueError("a row without a picture or a sound")
    try:
        path = inside(root, media.path)
    except RowDefect:
        path = None
    if path is None or sha256_file(path) != media.sha256:
        raise TunesmithError("data.source_changed", path=str(root / media.path))
    drawn = _outline(path, media) if path.suffix.lower() in SOUNDS else _picture(path, media, example.boxes)
    said = " · ".join(each for each in (", ".join(dict.fromkeys(example.labels)), example.text) if each)
    caption = say("data.media_row", row=example.row, path=media.path, said=said or "-", size=_size(media))
    return f"<figure>{drawn}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _size(media: Media) -> str:
    if media.width:
        return f"{media.width} × {media.height}"
    return f"{media.seconds:.2f} s, {media.sample_rate} Hz, {media.channels} ch"


def _picture(path: Path, media: Media, boxes: tuple[Box, ...]) -> str:
    colours = {label: _COLOURS[place % len(_COLOURS)] for place, label in enumerate(sorted({b.label for b in boxes}))}
    line = max(media.width, media.height) / 300
    drawn = "".join(_rectangle(box, colours[box.label], line) for box in boxes)
    scale = min(1.0, _SIDE / max(media.width, media.height))
    return (
        f'<svg viewBox="0 0 {media.width} {media.height}" width="{max(1, round(media.width * scale))}" role="img">'
        f'<image width="{media.width}" height="{media.height}" href="{_copy(path)}"/>{drawn}</svg>'
    )


def _rectangle(box: Box, colour: str, line: float) -> str:
    dashes = f' stroke-dasharray="{2 * line:.2f}"' if box.ignored else ""
    return (
        f'<rect x="{box.x:.2f}" y="{box.y:.2f}" width="{box.width:.2f}" height="{box.height:.2f}" fill="none"'
        f' stroke="{colour}" stroke-width="{line:.2f}"{dashes}><title>{html.escape(box.label)}</title></rect>'
    )


def _copy(path: Path) -> str:
    """A small copy, turned as its file says, as a data address."""
    pillow, turned = needed("PIL.Image", "media", "pictures"), needed("PIL.ImageOps", "media", "pictures")
    with pillow.open(path) as picture:
        small = turned.exif_transpose(picture).convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    small.save(content, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _outline(path: Path, media: Media) -> str:
    """The loudest sample of each column's time, up and down."""
    samples_N = np.abs(samples_of(path)[0]).max(axis=1)
    parts = np.array_split(samples_N, min(_COLUMNS, len(samples_N)))
    bars = "".join(
        f'<rect x="{place}" y="{50 - 50 * loud:.1f}" width="1" height="{max(0.4, 100 * loud):.1f}"/>'
        for place, loud in enumerate(float(part.max()) for part in parts)
    )
    return f'<svg viewBox="0 0 {len(parts)} 100" width="{_SIDE}" fill="{_COLOURS[0]}" role="img">{bars}</svg>'
