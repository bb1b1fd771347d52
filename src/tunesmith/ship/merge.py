"""Adapter + base -> merged weights, in float32; or the weights of a full fine-tune, or of a subset, as they are.

Shape letters: O outputs, I inputs of a linear layer, R rank.

    W_OI + scale * B_OR A_RI,   as `adapter_file.Adapter` applies it

Every tensor of the adapter must be used and every layer that it names must have its pair: an adapter that fits only
in part changes the model into something nobody evaluated. A change of zero is refused as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tunesmith.adapt.subset import SUBSET_CONFIG, SUBSET_WEIGHTS
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import MANIFEST, verify_folder
from tunesmith.models.load import BaseFolder, Loaded
from tunesmith.models.texts import MODEL_FILES
from tunesmith.models.weights import read_tensors, read_weights
from tunesmith.ship.adapter_file import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    is_adapter,
    other_keys,
    read_adapter,
    refuse_other_keys,
    stated_base,
)

FULL_WEIGHTS = "model.safetensors"
CHANGE_FILES = frozenset({ADAPTER_CONFIG, ADAPTER_WEIGHTS, FULL_WEIGHTS, SUBSET_CONFIG, SUBSET_WEIGHTS, *MODEL_FILES})
"""What is opened in the folder of a change."""


@dataclass(frozen=True)
class Merged:
    """Merged weights by their names in the Hugging Face layout, and the names of those that moved."""

    tensors: Mapping[str, Tensor]
    changed: tuple[str, ...]
    kind: str


def merge(base: BaseFolder, change: Path) -> Merged:
    """Merge an adapter folder, or take a full fine-tune's folder, over a base.

    Errors: ship.other_base, ship.no_change, ship.not_finite, ship.missing_change, those of `read_adapter`, and those
        of `verify_folder` when the folder carries a manifest.
    """
    check_base(base, change)
    weights = read_weights(base.path)
    if not is_adapter(change):
        return _weights(change, weights)
    adapter = read_adapter(change, weights)
    changed: list[str] = []
    for name in adapter.pairs:
        moved_OI = adapter.applied_to(name, weights[name])
        _refuse_not_finite(change, name, moved_OI)
        if not torch.equal(moved_OI, weights[name].float()):
            changed.append(name)
        weights[name] = moved_OI
    if not changed:
        raise TunesmithError("ship.no_change", path=str(change))
    return Merged(weights, tuple(changed), "lora")


def merge_into(loaded: Loaded, base: BaseFolder, change: Path) -> Loaded:
    """Put the merged weights into the base in memory, in place, in its own number format. Errors: those of `merge`."""
    merged = merge(base, change)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            parameter.copy_(merged.tensors[name])
    return loaded


def check_base(base: BaseFolder, change: Path) -> None:
    """Refuse a change that was trained on other weights. Errors: ship.other_base, ship.missing_change."""
    if not is_adapter(change) and not (change / weights_file(change)).is_file():
        raise TunesmithError("ship.missing_change", path=str(change))
    stated = verify_folder(change).get("base_sha256") if (change / MANIFEST).is_file() else None
    if stated is not None and stated != base.sha256:
        raise TunesmithError(
            "ship.other_base", path=str(change), trained=str(stated)[:12], given=base.sha256[:12], base=base.name
        )
    config = change / (ADAPTER_CONFIG if is_adapter(change) else SUBSET_CONFIG)
    if stated is None and config.is_file():
        named = stated_base(config)
        if named not in ("", base.name, str(base.path)):
            raise TunesmithError(
                "ship.other_base", path=str(change), trained=named[:200], given=base.sha256[:12], base=base.name
            )


def weights_file(change: Path) -> str:
    """The file that holds whole weights: some of them, or all of a full fine-tune."""
    return SUBSET_WEIGHTS if (change / SUBSET_CONFIG).is_file() else FULL_WEIGHTS


def _weights(change: Path, base: Mapping[str, Tensor]) -> Merged:
    file = weights_file(change)
    moved = read_tensors(change / file)
    if "lm_head.weight" in moved and "lm_head.weight" not in base:
        del moved["lm_head.weight"]  # tied: the embedding is the head
    refuse_other_keys(change, base if file == FULL_WEIGHTS else base.keys() & moved.keys(), moved)
    for name, tensor in moved.items():
        if tensor.shape != base[name].shape:
            raise other_keys(change, [], [f"{name} (shape)"])
        _refuse_not_finite(change, name, tensor)
    changed = tuple(name for name, tensor in moved.items() if not torch.equal(tensor.float(), base[name].float()))
    if not changed:
        raise TunesmithError("ship.no_change", path=str(change))
    return Merged({**base, **moved}, changed, "full" if file == FULL_WEIGHTS else "subset")


def _refuse_not_finite(change: Path, name: str, tensor: Tensor) -> None:
    if not torch.isfinite(tensor).all():
        raise TunesmithError("ship.not_finite", path=str(change), tensor=name)
