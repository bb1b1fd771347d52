"""Rows about pictures and sounds on their way to their children: decoded, and put down again as files of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.core.types import Box, Media
from tunesmith.data.augment.children import Child, Row
from tunesmith.data.defects import Reason, RowDefect
from tunesmith.data.media.change_images import Seen
from tunesmith.data.media.content import MediaPlaces
from tunesmith.data.media.images import as_png, pixels_of
from tunesmith.data.media.sounds import as_wave, samples_of

MOST_PIXELS = 2**24
"""Of a picture that is changed: 4096 x 4096. Its pixels stand in memory several times over."""
MOST_SAMPLES = 2**25
"""Of a sound that is changed, over all channels: twelve minutes of 48 kHz and one channel."""


@dataclass(frozen=True)
class Heard:
    """A sound: its samples [N, C] between -1 and 1, and how many a second."""

    samples_NC: NDArray[np.float32]
    rate: int


def media_of(row: Row) -> Media:
    """The picture or the sound that a row of the table is about."""
    stated = row["media"]
    if not isinstance(stated, Mapping):
        raise ValueError("a row without a picture or a sound")
    return Media(**stated)


def boxes_of(row: Row) -> tuple[Box, ...]:
    """The boxes in a row of the table."""
    stated = row["boxes"]
    return tuple(Box(**box) for box in stated) if isinstance(stated, Sequence) else ()


def picture_of(row: Row, places: MediaPlaces) -> Seen:
    """The picture of a row and its boxes. Raises RowDefect: made_too_large, made_of_odd_pixels.

    Errors: data.source_changed.
    """
    media = media_of(row)
    if media.width * media.height > MOST_PIXELS:
        raise RowDefect("made_too_large")
    pixels_HWC = pixels_of(places.content(str(row["source"]), media))
    if pixels_HWC is None:
        raise RowDefect("made_of_odd_pixels")
    return Seen(pixels_HWC, boxes_of(row))


def sound_of(row: Row, places: MediaPlaces) -> Heard:
    """The sound of a row. Raises RowDefect: made_too_large. Errors: data.source_changed."""
    media = media_of(row)
    if media.seconds * media.sample_rate * media.channels > MOST_SAMPLES:
        raise RowDefect("made_too_large")
    return Heard(*samples_of(places.content(str(row["source"]), media)))


def child_with_picture(
    row: Row,
    made: Seen,
    boxes_before: int,
    places: MediaPlaces,
    labels: Sequence[tuple[str, float]] | None = None,
    other: int | None = None,
) -> Child:
    """The child of a row with a picture that was made; one that has lost all its boxes is refused.

    Args:
        labels: its labels with their shares; else they are its parent's, or those of its boxes, and count whole.
    """
    content = as_png(np.asarray(made.pixels_HWC, np.uint8))
    media = Media(
        places.keep(content, "png"),
        hashlib.sha256(content).hexdigest(),
        len(content),
        "png",
        made.width,
        made.height,
        1,
    )
    changed: dict[str, object] = {**row, "media": asdict(media), "boxes": [asdict(box) for box in made.boxes]}
    if row["kind"] == "detection":
        changed["labels"] = [box.label for box in made.boxes]
    if labels is not None:
        changed["labels"] = [name for name, _ in labels]
        changed["label_weights"] = [share for _, share in labels]
    gone = boxes_before - len(made.boxes)
    refused: Reason | None = "made_without_boxes" if boxes_before and not made.boxes else None
    return Child(int(str(row["row"])), changed, refused, other, gone)


def child_with_sound(row: Row, made: Heard, places: MediaPlaces) -> Child:
    """The child of a row with a sound that was made, as a WAV file of 16 bits."""
    content = as_wave(made.samples_NC, made.rate)
    frames, channels = made.samples_NC.shape
    media = Media(
        places.keep(content, "wav"),
        hashlib.sha256(content).hexdigest(),
        len(content),
        "wav",
        seconds=frames / made.rate,
        sample_rate=made.rate,
        channels=channels,
    )
    return Child(int(str(row["row"])), {**row, "media": asdict(media)})
