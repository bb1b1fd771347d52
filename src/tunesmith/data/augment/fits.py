"""Which augmentations fit which rows: one that could not do anything, or would make labels wrong, is refused."""

from __future__ import annotations

from collections.abc import Mapping

from tunesmith.core.errors import TunesmithError
from tunesmith.core.types import RowKind
from tunesmith.data.media.kinds import MEDIA_KINDS
from tunesmith.recipe.specs.augment import AugmentSpec

_PICTURES: tuple[RowKind, ...] = ("image_class", "detection")
_SOUNDS: tuple[RowKind, ...] = ("audio_class", "audio_text")
_OF_MEDIA: Mapping[str, tuple[RowKind, ...]] = {
    "images": _PICTURES,
    "mixup": _PICTURES,
    "cutmix": _PICTURES,
    "sounds": _SOUNDS,
    "spec_augment": _SOUNDS,
}
_OF_ALL = "balance"


def refuse_misfits(spec: AugmentSpec, kind: RowKind) -> None:
    """Errors: data.media_setting for what is about words, augment.other_rows, augment.shift_of_words."""
    for name in spec.stated:
        if name not in _OF_MEDIA and name != _OF_ALL and kind in MEDIA_KINDS:
            raise TunesmithError("data.media_setting", setting=f"data.augment.{name}", kind=kind)
        if name in _OF_MEDIA and kind not in _OF_MEDIA[name]:
            raise TunesmithError("augment.other_rows", setting=name, kind=kind, kinds=", ".join(_OF_MEDIA[name]))
    if kind == "audio_text" and spec.sounds is not None and spec.sounds.shift:
        raise TunesmithError("augment.shift_of_words")
