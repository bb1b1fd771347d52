"""Pictures made from others, and where their boxes go: pure functions, chance is handed in as numbers.

Shape letters: H height, W width, C channels. Pixels are [H, W, C] of any number type, which is kept; the picture stands
upright. Boxes count pixels from the upper left corner, so that a box from 0 to W covers the whole width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tunesmith.core.types import Box

Pixels = NDArray[np.generic]
_GREY = np.array([0.299, 0.587, 0.114])
"""How bright red, green and blue look (ITU-R BT.601)."""
VISIBLE = 0.3
"""A box of which less than this share is left is taken away: nobody could say what it holds."""


@dataclass(frozen=True)
class Seen:
    """A picture and the boxes in it. `weight` is the share of its own labels, of pictures made from two.

    `left` is the share of each box that former changes left of it; empty where they left all.
    """

    pixels_HWC: Pixels
    boxes: tuple[Box, ...] = ()
    weight: float = 1.0
    left: tuple[float, ...] = ()

    @property
    def height(self) -> int:
        """H."""
        return int(self.pixels_HWC.shape[0])

    @property
    def width(self) -> int:
        """W."""
        return int(self.pixels_HWC.shape[1])


def same_picture(one: Seen, other: Seen) -> bool:
    """Whether two pictures have the same pixels and boxes."""
    return one.boxes == other.boxes and np.array_equal(one.pixels_HWC, other.pixels_HWC)


def flipped(seen: Seen) -> Seen:
    """The picture in a mirror, left and right changed: x -> W - x - width."""
    boxes = tuple(replace(box, x=seen.width - box.x - box.width) for box in seen.boxes)
    return replace(seen, pixels_HWC=seen.pixels_HWC[:, ::-1], boxes=boxes)


def turned(seen: Seen, quarters: int) -> Seen:
    """The picture turned to the left by quarters of a circle, without loss: (x, y) -> (y, W - x - width) each."""
    boxes, width, height = seen.boxes, seen.width, seen.height
    for _ in range(quarters % 4):
        boxes = tuple(
            replace(box, x=box.y, y=width - box.x - box.width, width=box.height, height=box.width) for box in boxes
        )
        width, height = height, width
    return replace(seen, pixels_HWC=np.rot90(seen.pixels_HWC, quarters), boxes=boxes)


def rotated(seen: Seen, degrees: float, least: float = VISIBLE) -> Seen:
    """The picture turned to the left about its middle; size stays, corners come in black.

    Between pixels a straight line is taken, across and down.

    A box becomes the upright one around its four turned corners, cut at the edges; one of which less than `least` is
    left, former changes included, is taken away.
    """
    angle, (height, width) = np.deg2rad(degrees), (seen.height, seen.width)
    cosine, sine = np.cos(angle), np.sin(angle)
    rows_HW, columns_HW = np.mgrid[0:height, 0:width].astype(np.float64)
    x_HW, y_HW = columns_HW + 0.5 - width / 2, rows_HW + 0.5 - height / 2
    # where each pixel comes from: turned back, to the right; y points down
    from_x_HW = cosine * x_HW - sine * y_HW + width / 2
    from_y_HW = sine * x_HW + cosine * y_HW + height / 2
    inside_HW = (from_x_HW >= 0) & (from_x_HW < width) & (from_y_HW >= 0) & (from_y_HW < height)
    pixels_HWC = np.zeros_like(seen.pixels_HWC)
    pixels_HWC[inside_HW] = _between(seen.pixels_HWC, from_x_HW[inside_HW] - 0.5, from_y_HW[inside_HW] - 0.5)
    boxes = []
    for box in seen.boxes:
        x = np.array([box.x, box.x + box.width] * 2) - width / 2
        y = np.array([box.y] * 2 + [box.y + box.height] * 2) - height / 2
        to_x, to_y = cosine * x + sine * y + width / 2, cosine * y - sine * x + height / 2
        low, high = (float(to_x.min()), float(to_y.min())), (float(to_x.max()), float(to_y.max()))
        boxes.append(replace(box, x=low[0], y=low[1], width=high[0] - low[0], height=high[1] - low[1]))
    return _cut(replace(seen, pixels_HWC=pixels_HWC, boxes=tuple(boxes)), 0, 0, width, height, least)


def _between(pixels_HWC: Pixels, x_P: NDArray[np.float64], y_P: NDArray[np.float64]) -> Pixels:
    """What stands at P places, [P, C]: whole numbers are middles of pixels, and the outermost reach to the edge."""
    height, width = pixels_HWC.shape[:2]
    left_P, top_P = np.floor(x_P).astype(np.int64), np.floor(y_P).astype(np.int64)
    across_P1, down_P1 = (x_P - left_P)[:, None], (y_P - top_P)[:, None]

    def at(row_P: NDArray[np.int64], column_P: NDArray[np.int64]) -> NDArray[np.float64]:
        return pixels_HWC[np.clip(row_P, 0, height - 1), np.clip(column_P, 0, width - 1)].astype(np.float64)

    upper_PC = at(top_P, left_P) * (1 - across_P1) + at(top_P, left_P + 1) * across_P1
    lower_PC = at(top_P + 1, left_P) * (1 - across_P1) + at(top_P + 1, left_P + 1) * across_P1
    found_PC = upper_PC * (1 - down_P1) + lower_PC * down_P1
    whole = np.issubdtype(pixels_HWC.dtype, np.integer)
    return (np.rint(found_PC) if whole else found_PC).astype(pixels_HWC.dtype)


def cropped(seen: Seen, left: int, top: int, width: int, height: int, least: float = VISIBLE) -> Seen:
    """The part of the picture that begins at (left, top); boxes of which too little is left, former changes included,
    are taken away.
    """
    part_HWC = seen.pixels_HWC[top : top + height, left : left + width]
    across, down = int(part_HWC.shape[1]), int(part_HWC.shape[0])
    return replace(_cut(seen, left, top, across, down, least), pixels_HWC=part_HWC)


def _cut(seen: Seen, left: float, top: float, width: float, height: float, least: float) -> Seen:
    """The boxes of a picture cut at a part of it, with what is left of each over all changes so far."""
    boxes, shares = [], []
    for place, box in enumerate(seen.boxes):
        before = seen.left[place] if seen.left else 1.0
        # What is asked of the box as it was read is asked of the one at hand, of which some may have gone before.
        for kept in cut((box,), left, top, width, height, least / before):
            boxes.append(kept)
            shares.append(before * (kept.width * kept.height) / (box.width * box.height))
    return replace(seen, boxes=tuple(boxes), left=tuple(shares))


def cut(
    boxes: Sequence[Box], left: float, top: float, width: float, height: float, least: float = VISIBLE
) -> tuple[Box, ...]:
    """Boxes as they stand in a part of their picture; those of which less than `least` is left are taken away."""
    found = []
    for box in boxes:
        x, y = max(box.x, left), max(box.y, top)
        right, bottom = min(box.x + box.width, left + width), min(box.y + box.height, top + height)
        if right > x and bottom > y and (right - x) * (bottom - y) >= least * box.width * box.height:
            found.append(replace(box, x=x - left, y=y - top, width=right - x, height=bottom - y))
    return tuple(found)


def coloured(seen: Seen, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0) -> Seen:
    """Brightness, contrast (about the mean brightness) and saturation (about each pixel's) scaled, in this order.

    Pixels are [H, W, 3] of 8 bits. 1 leaves them as they are; the result is cut at 0 and 255.
    """
    pixels_HWC = seen.pixels_HWC.astype(np.float64) * brightness
    mean = float((pixels_HWC @ _GREY).mean())
    pixels_HWC = mean + (pixels_HWC - mean) * contrast
    grey_HWC = (pixels_HWC @ _GREY)[..., None]
    pixels_HWC = grey_HWC + (pixels_HWC - grey_HWC) * saturation
    return replace(seen, pixels_HWC=np.clip(np.rint(pixels_HWC), 0, 255).astype(np.uint8))


def mixed_up(one: Seen, other: Seen, share: float) -> Seen:
    """share x one + (1 - share) x other of two pictures of one size (MixUp, Zhang et al. 2017, 1710.09412).

    The boxes of both stand in it; `weight` is that of the first one's labels. Pixels are float64.
    """
    pixels_HWC = share * one.pixels_HWC.astype(np.float64) + (1 - share) * other.pixels_HWC.astype(np.float64)
    return Seen(pixels_HWC, (*one.boxes, *other.boxes), share)


def cut_mixed(one: Seen, other: Seen, left: int, top: int, width: int, height: int, least: float = VISIBLE) -> Seen:
    """One picture with a part of another of the same size in its place (CutMix, Yun et al. 2019, 1905.04899).

    Boxes of the other are cut at that part; boxes of the first are taken away where less than `least` of them still
    shows, and otherwise become the smallest one around what shows. `weight` is the share of the first one's pixels.
    """
    pixels_HWC = one.pixels_HWC.copy()
    part = cropped(other, left, top, width, height, least)
    pixels_HWC[top : top + part.height, left : left + part.width] = part.pixels_HWC
    pasted = (replace(box, x=box.x + left, y=box.y + top) for box in part.boxes)
    kept = (
        _around_what_shows(box, left, top, part.width, part.height)
        for box in one.boxes
        if 1 - _covered(box, left, top, part.width, part.height) >= least
    )
    return Seen(pixels_HWC, (*kept, *pasted), 1 - part.width * part.height / (one.width * one.height))


def _covered(box: Box, left: float, top: float, width: float, height: float) -> float:
    """The share of a box that lies under a part of the picture."""
    across = min(box.x + box.width, left + width) - max(box.x, left)
    down = min(box.y + box.height, top + height) - max(box.y, top)
    return max(0.0, across) * max(0.0, down) / (box.width * box.height)


def _around_what_shows(box: Box, left: float, top: float, width: float, height: float) -> Box:
    """The smallest box around what a part of the picture leaves of one: a part cuts only a side that it hides whole."""
    x, y, right, bottom = box.x, box.y, box.x + box.width, box.y + box.height
    if top <= y and top + height >= bottom:
        x = left + width if left <= x < left + width else x
        right = left if left < right <= left + width else right
    elif left <= x and left + width >= right:
        y = top + height if top <= y < top + height else y
        bottom = top if top < bottom <= top + height else bottom
    return replace(box, x=x, y=y, width=right - x, height=bottom - y)
