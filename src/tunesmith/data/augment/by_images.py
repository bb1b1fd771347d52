"""Children by changes of one picture: mirrored, turned, cropped and coloured, with boxes that follow."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from tunesmith.data.augment.children import Child
from tunesmith.data.augment.media_rows import child_with_picture, media_of, picture_of
from tunesmith.data.defects import RowDefect
from tunesmith.data.media.change_images import Seen, coloured, cropped, flipped, rotated, same_picture, turned
from tunesmith.data.media.change_sounds import chance_of_media
from tunesmith.data.media.content import MediaPlaces
from tunesmith.recipe.specs.augment_media import ImagesSpec


def image_children(frame: pl.DataFrame, spec: ImagesSpec, seed: int, places: MediaPlaces) -> Iterator[Child]:
    """Each row with its picture changed; where that shows in no pixel and no box there is no child.

    Errors: data.source_changed.
    """
    for row in frame.iter_rows(named=True):
        try:
            seen = picture_of(row, places)
        except RowDefect as defect:
            yield Child(int(row["row"]), row, defect.reason)
            continue
        for number in range(spec.children):
            made = _changed(seen, spec, chance_of_media(seed, "images", media_of(row).sha256, number))
            if not same_picture(made, seen):
                yield child_with_picture(row, made, len(seen.boxes), places)


def _changed(seen: Seen, spec: ImagesSpec, chance: np.random.Generator) -> Seen:
    """The picture as chance changes it."""
    if chance.random() < spec.horizontal_flip:
        seen = flipped(seen)
    if chance.random() < spec.vertical_flip:
        seen = turned(flipped(seen), 2)
    if chance.random() < spec.rotate90:
        seen = turned(seen, int(chance.integers(1, 4)))
    if spec.rotate:
        seen = rotated(seen, float(chance.uniform(-spec.rotate, spec.rotate)), spec.min_visibility)
    if spec.crop < 1:
        seen = _cropped(seen, spec, chance)
    if spec.brightness or spec.contrast or spec.saturation:
        factors = (float(chance.uniform(1 - by, 1 + by)) for by in (spec.brightness, spec.contrast, spec.saturation))
        seen = coloured(seen, *factors)
    return seen


def _cropped(seen: Seen, spec: ImagesSpec, chance: np.random.Generator) -> Seen:
    """A part of the picture, in its own shape, anywhere in it."""
    side = float(np.sqrt(chance.uniform(spec.crop, 1)))
    width, height = max(1, round(seen.width * side)), max(1, round(seen.height * side))
    left, top = int(chance.integers(0, seen.width - width + 1)), int(chance.integers(0, seen.height - height + 1))
    if (width, height) == (seen.width, seen.height):
        return seen
    return cropped(seen, left, top, width, height, spec.min_visibility)
