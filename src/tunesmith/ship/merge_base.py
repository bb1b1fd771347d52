"""On which base an adapter is merged that was trained beside a quantised one: both are tried, the better is kept.

    original      the base's own weights, which the adapter has never seen
    dequantized   the weights that it was trained beside, with the error of their quantisation

Neither is right in general. What the adapter has learned may make good the error of the quantisation, and is then out
of place on the original (unsloth-zoo#810); and the original has lost nothing (peft#2321). So the losses on the
validation rows decide, of the whole model as it would be evaluated and shipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from tunesmith.adapt.adapter_file import read_adapter
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import read_json, write_json
from tunesmith.models.heads import Head
from tunesmith.models.load import BaseFolder, Loaded, load_base
from tunesmith.models.quantized import dequantized_weights, own_weights, quantized_layers
from tunesmith.recipe.specs.model import Quantize
from tunesmith.ship.merge import merge_into

MERGE_BASE = "merge_base.json"
"""The choice, in the folder of a stage."""


@dataclass(frozen=True)
class MergeBase:
    """What an adapter is merged with, and the validation losses that it was chosen by."""

    chosen: Literal["original", "dequantized"]
    quantize: Quantize
    loss_original: float
    loss_dequantized: float

    def write(self, path: Path) -> None:
        """As JSON. Errors: those of `write_json`."""
        write_json(path, asdict(self))


def read_merge_base(path: Path) -> MergeBase:
    """A choice that was written. Errors: core.missing_file, core.broken_json."""
    stated = read_json(path)
    try:
        return MergeBase(**stated)  # type: ignore[arg-type]  # written from this very class
    except TypeError as error:
        raise TunesmithError("core.broken_json", path=str(path), reason=str(error)) from error


def weights_beside(
    base: BaseFolder, quantize: Quantize, dtype: torch.dtype, head: Head | None = None, start: Path | None = None
) -> dict[str, Tensor]:
    """The dense weights that an adapter was trained beside, by their names in the base; none where they are its own.

    Args:
        head: the task head that stands on the base.
        start: the change, where its additions began with what they took out of the base (PiSSA, OLoRA).

    Errors: those of loading and of `read_adapter`.
    """
    if quantize == "none":
        return {}
    loaded = load_base(base, dtype, head, quantize)
    if start is None:
        return dequantized_weights(loaded.model)
    with own_weights(loaded.model, load_base(base, dtype, head).model):
        taken = _take_out(start, loaded)
    return {
        name: weight.float() + taken[name] if name in taken else weight
        for name, weight in dequantized_weights(loaded.model).items()
    }


def _take_out(start: Path, loaded: Loaded) -> dict[str, Tensor]:
    """Take out of the weights what a change began with, so that the rest stands in codes; returns what that was.

    A change is saved as [B, B0] [A; -A0], so half of its ranks say what it began with.
    """
    model = loaded.model
    shapes = {**dict(model.named_parameters()), **dequantized_weights(model)}
    adapter, taken = read_adapter(start, shapes, loaded.new), {}
    for name, (low_RI, high_OR) in adapter.pairs.items():
        half = adapter.settings.rank // 2
        taken[name] = -adapter.settings.scale * (high_OR[:, half:] @ low_RI[half:])
    for name, layer in quantized_layers(model).items():
        if f"{name}.weight" in taken:
            layer.give_up(taken[f"{name}.weight"])
    return taken


def better_base(
    base: BaseFolder,
    change: Path,
    quantize: Quantize,
    dequantized: Mapping[str, Tensor],
    load: Callable[[], Loaded],
    loss_of: Callable[[Loaded], float],
    *,
    fixed: bool = False,
) -> MergeBase:
    """Merge both ways and keep the lower loss, the original where they are equal.

    Args:
        dequantized: from `weights_beside`.
        load: the base in memory, anew at each call.
        loss_of: the loss of a whole model on the validation rows.
        fixed: the original stays in any case: an adapter that is published apart stands on the base that people have.

    Errors: those of `merge`.
    """
    original, other = (loss_of(merge_into(load(), base, change, instead)) for instead in ({}, dequantized))
    is_better = not fixed and not math.isnan(other) and (math.isnan(original) or other < original)
    return MergeBase("dequantized" if is_better else "original", quantize, original, other)
