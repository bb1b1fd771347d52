"""Children of two pictures: one shining through the other (MixUp), or a part of one in the other (CutMix).

The labels of such a child have shares, which its row states. Boxes of a pasted part are there or are not: in detection
only MixUp gives shares, one for each box.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from tunesmith.core.types import Box
from tunesmith.data.augment.children import Child, Row
from tunesmith.data.augment.media_rows import child_with_picture, media_of, picture_of
from tunesmith.data.defects import RowDefect
from tunesmith.data.media.change_images import Seen, cut, cut_mixed, mixed_up
from tunesmith.data.media.change_sounds import chance_of_media
from tunesmith.data.media.content import MediaPlaces
from tunesmith.data.media.images import resized
from tunesmith.recipe.specs.augment_media import CutmixSpec, MixupSpec

_Mix = Callable[[Seen, Seen, np.random.Generator], tuple[Seen, int] | None]
"""Two pictures to one, and how many boxes show there, however little of them."""


def mixup_children(frame: pl.DataFrame, spec: MixupSpec, seed: int, places: MediaPlaces) -> Iterator[Child]:
    """Each row with another row's picture shining through it. Errors: data.source_changed."""

    def mix(one: Seen, other: Seen, chance: np.random.Generator) -> tuple[Seen, int] | None:
        share = float(chance.beta(spec.alpha, spec.alpha))
        if not 0 < share < 1:  # a small alpha draws what rounds to a picture alone
            return None
        both = mixed_up(one, other, share)
        pixels_HWC = np.rint(both.pixels_HWC.astype(np.float64)).astype(np.uint8)
        return replace(both, pixels_HWC=pixels_HWC), len(both.boxes)

    return _children(frame, "mixup", spec.children, seed, places, mix)


def cutmix_children(frame: pl.DataFrame, spec: CutmixSpec, seed: int, places: MediaPlaces) -> Iterator[Child]:
    """Each row with a part of another row's picture in its own. Errors: data.source_changed."""

    def mix(one: Seen, other: Seen, chance: np.random.Generator) -> tuple[Seen, int] | None:
        side = float(np.sqrt(1 - chance.beta(spec.alpha, spec.alpha)))
        width, height = round(one.width * side), round(one.height * side)
        left = round(float(chance.uniform(0, one.width)) - width / 2)  # its middle lies anywhere; it is cut at the edge
        top = round(float(chance.uniform(0, one.height)) - height / 2)
        right, bottom = min(left + width, one.width), min(top + height, one.height)
        left, top = max(left, 0), max(top, 0)
        whole = (right - left, bottom - top) == (one.width, one.height)
        if right <= left or bottom <= top or whole:
            return None
        part = (left, top, right - left, bottom - top)
        return cut_mixed(one, other, *part, spec.min_visibility), len(one.boxes) + len(cut(other.boxes, *part, least=0))

    return _children(frame, "cutmix", spec.children, seed, places, mix)


def _children(
    frame: pl.DataFrame, method: str, children: int, seed: int, places: MediaPlaces, mix: _Mix
) -> Iterator[Child]:
    rows = frame.to_dicts()
    partners = _Partners(rows)
    for row in rows:
        digest = media_of(row).sha256
        for number in range(children):
            chance = chance_of_media(seed, method, digest, number)
            other = partners.drawn(chance, digest)
            if other is None:
                continue
            try:
                one, two = picture_of(row, places), picture_of(other, places)
            except RowDefect as defect:
                yield Child(int(str(row["row"])), row, defect.reason, int(str(other["row"])))
                continue
            found = mix(one, _in_size_of(two, one), chance)
            if found is not None and not np.array_equal(found[0].pixels_HWC, one.pixels_HWC):  # the other must show
                labels = _labels(row, other, len(one.boxes), found[0], shines=method == "mixup")
                yield child_with_picture(row, *found, places, labels, int(str(other["row"])))


class _Partners:
    """The rows on a circle, by the hashes of their pictures: a new row takes partners from one neighbour alone."""

    def __init__(self, rows: Sequence[Row]) -> None:
        places = {int(media_of(row).sha256[:16], 16): row for row in reversed(rows)}
        self._places = sorted(places)
        self._rows = [places[place] for place in self._places]

    def drawn(self, chance: np.random.Generator, but: str) -> Row | None:
        """A row whose picture is another one; None where there is none."""
        first = bisect.bisect(self._places, int(chance.integers(0, 2**64, dtype=np.uint64)))
        for step in range(2):
            row = self._rows[(first + step) % len(self._rows)] if self._rows else None
            if row is not None and media_of(row).sha256 != but:
                return row
        return None


def _in_size_of(seen: Seen, model: Seen) -> Seen:
    """The picture and its boxes in the size of another."""
    if (seen.width, seen.height) == (model.width, model.height):
        return seen
    across, down = model.width / seen.width, model.height / seen.height

    def scaled(box: Box) -> Box:
        return replace(box, x=box.x * across, y=box.y * down, width=box.width * across, height=box.height * down)

    pixels_HWC = resized(np.asarray(seen.pixels_HWC, np.uint8), model.width, model.height)
    return Seen(pixels_HWC, tuple(map(scaled, seen.boxes)))


def _labels(row: Row, other: Row, own: int, made: Seen, *, shines: bool) -> list[tuple[str, float]] | None:
    """The classes of both by their shares, or those of the boxes, of which the first `own` are the row's own.

    None where every label counts whole.
    """
    if row["kind"] == "detection":
        shares = [made.weight] * own + [1 - made.weight] * (len(made.boxes) - own)
        return [(box.label, share) for box, share in zip(made.boxes, shares, strict=True)] if shines else None
    if _label(row) == _label(other):
        return None
    return [(_label(row), made.weight), (_label(other), 1 - made.weight)]


def _label(row: Row) -> str:
    labels = row["labels"]
    return str(labels[0]) if isinstance(labels, Sequence) and labels else ""
