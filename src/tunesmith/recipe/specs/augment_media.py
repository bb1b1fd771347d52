"""Pictures and sounds that are made from those of the training rows."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from tunesmith.recipe.specs.base import Spec

_MOST_CHILDREN = 100
_FASTEST = 0.75
"""A sound gets at most four times as long."""
_VISIBLE = "Boxes of which less than this share of the area is left are taken away; the ledger counts them."


class ImagesSpec(Spec):
    """Pictures are mirrored, turned, cropped and coloured, in this order; what is not stated does not happen."""

    children: int = Field(1, ge=1, le=_MOST_CHILDREN, description="Rows made from each training row.")
    horizontal_flip: float = Field(0.0, ge=0, le=1, description="Probability of a mirror that changes left and right.")
    vertical_flip: float = Field(0.0, ge=0, le=1, description="Probability of a mirror that changes up and down.")
    rotate90: float = Field(
        0.0, ge=0, le=1, description="Probability of a turn by one, two or three quarters of a circle."
    )
    rotate: float = Field(
        0.0, ge=0, le=180, description="Widest turn to either side in degrees; the corners come in black."
    )
    crop: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Least share of the area that a crop keeps, in the picture's own shape; 1 never crops.",
    )
    brightness: float = Field(0.0, ge=0, le=1, description="Brightness times 1 - this to 1 + this.")
    contrast: float = Field(0.0, ge=0, le=1, description="Contrast times 1 - this to 1 + this.")
    saturation: float = Field(0.0, ge=0, le=1, description="Saturation times 1 - this to 1 + this.")
    min_visibility: float = Field(0.3, gt=0, le=1, description=_VISIBLE)

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        moved = (self.horizontal_flip, self.vertical_flip, self.rotate90, self.rotate, 1 - self.crop)
        if not any((*moved, self.brightness, self.contrast, self.saturation)):
            raise ValueError("augment_images")
        return self


class MixupSpec(Spec):
    """Each child is one picture shining through another, with the labels of both by their shares (1710.09412)."""

    children: int = Field(1, ge=1, le=_MOST_CHILDREN, description="Rows made from each training row.")
    alpha: float = Field(
        0.2, gt=0, le=100, description="Shares are drawn from Beta(alpha, alpha): small ones keep one picture strong."
    )


class CutmixSpec(Spec):
    """Each child has a part of another picture pasted in (1905.04899)."""

    children: int = Field(1, ge=1, le=_MOST_CHILDREN, description="Rows made from each training row.")
    alpha: float = Field(
        1.0, gt=0, le=100, description="The part's share of the area is drawn from Beta(alpha, alpha)."
    )
    min_visibility: float = Field(0.3, gt=0, le=1, description=_VISIBLE)


class SoundsSpec(Spec):
    """Sounds are played faster or slower, moved and heard through noise, in this order."""

    children: int = Field(1, ge=1, le=_MOST_CHILDREN, description="Rows made from each training row.")
    speed: float = Field(
        0.0,
        ge=0,
        le=_FASTEST,
        description="Played 1 - this to 1 + this times as fast; the pitch goes with it.",
    )
    shift: float = Field(
        0.0, ge=0, le=1, description="Widest move to either side, as a share of the length; what leaves is lost."
    )
    min_snr_db: float | None = Field(
        None, ge=-100, le=100, description="Least decibels of the sound above white noise; none: no noise."
    )
    max_snr_db: float | None = Field(
        None, ge=-100, le=100, description="Most decibels of the sound above white noise; none: no noise."
    )

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        low, high = self.min_snr_db, self.max_snr_db
        if (low is None) != (high is None) or (low is not None and high is not None and low > high):
            raise ValueError("augment_noise")
        if not self.speed and not self.shift and low is None:
            raise ValueError("augment_sounds")
        return self


class SpecAugmentSpec(Spec):
    """Bands of frequencies and stretches of time are silenced in the sound itself, once for each child (1904.08779)."""

    children: int = Field(1, ge=1, le=_MOST_CHILDREN, description="Rows made from each training row.")
    frequency_mask: float = Field(0.15, ge=0, le=1, description="Widest band, as a share of all frequencies.")
    time_mask: float = Field(0.1, ge=0, le=1, description="Longest stretch, as a share of the length.")
    masks: int = Field(1, ge=1, le=20, description="Bands, and as many stretches.")

    @model_validator(mode="after")
    def _hides_something(self) -> Self:
        if not self.frequency_mask and not self.time_mask:
            raise ValueError("augment_masks")
        return self
