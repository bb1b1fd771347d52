"""Pictures with their boxes and sounds with their outlines on one page: what is learned from, as people see it.

The page holds small copies, fetches nothing, runs no script and says so to the browser; names and labels are escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from string import Template

from tunesmith.core.types import Example, Media
from tunesmith.data.media.content import MediaPlaces
from tunesmith.data.media.drawn import SIDE, drawing_of
from tunesmith.messages import say

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


def media_page(title: str, rows: Iterable[Example], places: MediaPlaces) -> str:
    """The page of some rows.

    Errors: data.source_changed where a file is no more the one that was read, data.not_kept, data.extra_missing.
    """
    figures = (_figure(example, places) for example in rows)
    return _PAGE.substitute(title=html.escape(title), figures="\n".join(figures))


def _figure(example: Example, places: MediaPlaces) -> str:
    media = example.media
    if media is None:
        raise ValueError("a row without a picture or a sound")
    seen = drawing_of(places.content(example.origin.source, media), media, example.boxes)
    width = round(media.width * min(1.0, SIDE / max(media.width, media.height))) if media.width else SIDE
    caption = caption_of(example, media)
    return f"<figure>{seen.svg(max(1, width))}<figcaption>{html.escape(caption)}</figcaption></figure>"


def caption_of(example: Example, media: Media) -> str:
    """The row's number and file, what is seen or said there with its shares, and its size."""
    said = " · ".join(each for each in (labels_of(example), example.text) if each)
    return say("data.media_row", row=example.row, path=media.path, said=said or "-", size=size_of(media))


def labels_of(example: Example) -> str:
    """Labels once each, with their shares where they have any."""
    shares = example.label_weights or (1.0,) * len(example.labels)
    named = (name if share == 1 else f"{name} {share:.2f}" for name, share in zip(example.labels, shares, strict=True))
    return ", ".join(dict.fromkeys(named))


def size_of(media: Media) -> str:
    """Width and height, or length, samples a second and channels."""
    if media.width:
        return f"{media.width} × {media.height}"
    return f"{media.seconds:.2f} s, {media.sample_rate} Hz, {media.channels} ch"
