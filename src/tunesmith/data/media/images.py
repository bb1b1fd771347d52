"""What a picture's file holds: looked at through Pillow, decoded whole, within limits."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
_OF_8_BITS = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"})
"""Pillow's modes that become red, green and blue of 8 bits without a choice of scale."""


def look_at_image(source: Path | bytes, name: str) -> Media:
    """The picture in a file or in its bytes, of an animation the first one.

    Every pixel is decoded, so that a cut file is noticed. Raises RowDefect: media_too_large, media_broken.
    Errors: data.extra_missing.
    """
    pillow = needed("PIL.Image", "media", "pictures")
    pillow.init()  # which registers the decoders that it names by their forms
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size > MOST_BYTES:
        raise RowDefect("media_too_large")
    opened = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings(action="ignore"), pillow.open(opened, formats=FORMS) as picture:
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
    digest = hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else sha256_file(source)
    return Media(name, digest, size, form, width, height, orientation)


def pixels_of(content: bytes) -> NDArray[np.uint8] | None:
    """A picture that was looked at, upright: [height, width, 3] of red, green and blue; None for more than 8 bits.

    What was transparent is shown. Errors: data.extra_missing.
    """
    pillow, operations = needed("PIL.Image", "media", "pictures"), needed("PIL.ImageOps", "media", "pictures")
    with warnings.catch_warnings(action="ignore"), pillow.open(io.BytesIO(content), formats=FORMS) as picture:
        if picture.mode not in _OF_8_BITS:
            return None
        upright = operations.exif_transpose(picture).convert("RGB")
    return np.asarray(upright, np.uint8)


def as_png(pixels_HWC: NDArray[np.uint8]) -> bytes:
    """The file of a picture, without loss. Its bytes are the same wherever Pillow is of one version."""
    content = io.BytesIO()
    needed("PIL.Image", "media", "pictures").fromarray(np.ascontiguousarray(pixels_HWC)).save(content, "PNG")
    return content.getvalue()


def resized(pixels_HWC: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The picture in another size, by straight lines between pixels (Pillow's BILINEAR, which averages on the way
    down)."""
    pillow = needed("PIL.Image", "media", "pictures")
    picture = pillow.fromarray(np.ascontiguousarray(pixels_HWC)).resize((width, height), pillow.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8)
