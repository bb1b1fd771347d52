"""What a picture's file holds: looked at through Pillow, decoded whole, within limits."""

from __future__ import annotations

import warnings
from pathlib import Path

from tunesmith.core.files import sha256_file
from tunesmith.core.types import Media
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.extras import needed

MOST_BYTES = 256 * 2**20
MOST_PIXELS = 2**26
"""Of one picture: 8192 x 8192. A file of a few kB can name a picture of gigabytes, so this is looked at before."""
FORMS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
"""Pillow's decoders that may see a file; the others have never been asked for and would only be doors."""
_ORIENTATION = 0x0112
_TURNED = range(5, 9)
"""EXIF orientations in which rows of the file are columns of the picture."""


def look_at_image(path: Path, name: str) -> Media:
    """The picture in a file, of an animation the first one. Every pixel is decoded, so that a cut file is noticed.

    Raises RowDefect: media_too_large, media_broken. Errors: data.extra_missing.
    """
    pillow = needed("PIL.Image", "media", "pictures")
    pillow.init()  # which registers the decoders that it names by their forms
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise RowDefect("media_too_large")
    try:
        with warnings.catch_warnings(action="ignore"), pillow.open(path, formats=FORMS) as picture:
            width, height = int(picture.size[0]), int(picture.size[1])
            if width * height > MOST_PIXELS:
                raise RowDefect("media_too_large")
            picture.load()
            stated, form = picture.getexif().get(_ORIENTATION, 1), str(picture.format).lower()
    except RowDefect:
        raise
    except pillow.DecompressionBombError:
        raise RowDefect("media_too_large") from None
    except Exception:  # decoders of damaged files raise whatever they stumble over
        raise RowDefect("media_broken") from None
    orientation = stated if isinstance(stated, int) and 1 <= stated <= 8 else 1
    if orientation in _TURNED:
        width, height = height, width
    return Media(name, sha256_file(path), size, form, width, height, orientation)
