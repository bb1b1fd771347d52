"""Children by changes of one sound: faster or slower, moved, with noise, or with parts of it silenced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tunesmith.data.augment.children import Child
from tunesmith.data.augment.media_rows import MOST_SAMPLES, Heard, child_with_sound, media_of, sound_of
from tunesmith.data.defects import RowDefect
from tunesmith.data.media.change_sounds import chance_of_media, shifted, silenced, sped, with_noise
from tunesmith.data.media.content import MediaPlaces
from tunesmith.recipe.specs.augment_media import SoundsSpec, SpecAugmentSpec

_FINEST = 2.0**-16
"""Half a step of a number of 16 bits."""
_Change = Callable[[Heard, np.random.Generator], Heard]


def sound_children(frame: pl.DataFrame, spec: SoundsSpec, seed: int, places: MediaPlaces) -> Iterator[Child]:
    """Each row with its sound played faster or slower, moved, and heard through noise. Errors: data.source_changed."""

    def change(heard: Heard, chance: np.random.Generator) -> Heard:
        samples_NC = heard.samples_NC
        if spec.speed:
            factor = float(chance.uniform(1 - spec.speed, 1 + spec.speed))
            if samples_NC.size > MOST_SAMPLES * factor:
                raise RowDefect("made_too_large")
            samples_NC = sped(samples_NC, factor)
        if spec.shift:
            widest = round(spec.shift * len(samples_NC))
            samples_NC = shifted(samples_NC, int(chance.integers(-widest, widest + 1)))
        if spec.min_snr_db is not None and spec.max_snr_db is not None:
            samples_NC = with_noise(samples_NC, float(chance.uniform(spec.min_snr_db, spec.max_snr_db)), chance)
        return replace(heard, samples_NC=samples_NC)

    return _children(frame, "sounds", spec.children, seed, places, change)


def masked_children(frame: pl.DataFrame, spec: SpecAugmentSpec, seed: int, places: MediaPlaces) -> Iterator[Child]:
    """Each row with bands of frequencies and stretches of time silenced in its sound. Errors: data.source_changed."""

    def change(heard: Heard, chance: np.random.Generator) -> Heard:
        samples_NC, rate = heard.samples_NC, heard.rate
        return replace(
            heard, samples_NC=silenced(samples_NC, rate, spec.frequency_mask, spec.time_mask, chance, spec.masks)
        )

    return _children(frame, "spec_augment", spec.children, seed, places, change)


def _children(
    frame: pl.DataFrame, method: str, children: int, seed: int, places: MediaPlaces, change: _Change
) -> Iterator[Child]:
    """A sound that comes out as it was, such as silence, gives no child: nothing that 16 bits could tell apart."""
    for row in frame.iter_rows(named=True):
        try:
            heard = sound_of(row, places)
        except RowDefect as defect:
            yield Child(int(row["row"]), row, defect.reason)
            continue
        for number in range(children):
            try:
                made = change(heard, chance_of_media(seed, method, media_of(row).sha256, number))
            except RowDefect as defect:
                yield Child(int(row["row"]), row, defect.reason)
                continue
            if _differ(made.samples_NC, heard.samples_NC):
                yield child_with_sound(row, made, places)


def _differ(one_NC: NDArray[np.float32], other_NC: NDArray[np.float32]) -> bool:
    return one_NC.shape != other_NC.shape or bool(np.abs(one_NC - other_NC).max() > _FINEST)
