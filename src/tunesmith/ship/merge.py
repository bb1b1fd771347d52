"""Adapter + base -> merged weights, in float32; or the weights of a full fine-tune, or of a subset, as they are.

Shape letters: O outputs, I inputs of a linear layer, R rank.

    W_OI + scale * B_OR A_RI,   as `adapter_file.Adapter` applies it

Every tensor of the adapter must be used and every layer that it names must have its pair: an adapter that fits only
in part changes the model into something nobody evaluated. A change of zero is refused as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from tunesmith.adapt.adapter_file import other_keys, read_adapter, refuse_other_keys
from tunesmith.adapt.experts import in_files, read_experts
from tunesmith.adapt.files import FULL_WEIGHTS
from tunesmith.adapt.saved import SavedKind, check_base, kind_of
from tunesmith.core.errors import TunesmithError
from tunesmith.models.allowed import read_allowed
from tunesmith.models.expert_files import to_files, to_model
from tunesmith.models.heads import Head
from tunesmith.models.load import BaseFolder, Loaded, load_with_head
from tunesmith.models.weights import read_tensors, read_weights

NOTHING_INSTEAD: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Merged:
    """Merged weights by their names in the Hugging Face layout, and the names of those that moved."""

    tensors: Mapping[str, Tensor]
    changed: tuple[str, ...]
    kind: str


def merge(
    base: BaseFolder, change: Path, instead: Mapping[str, Tensor] = NOTHING_INSTEAD, head: Head | None = None
) -> Merged:
    """Merge an adapter folder, or take a full fine-tune's folder, over a base, or over a base with a task head.

    `instead` are weights that stand in for the base's own, by name: those of a quantised base (`merge_base.py`).
    Errors: ship.other_base, ship.no_change, ship.not_finite, ship.missing_change, ship.stands_beside, those of
        `read_adapter`, and those of `verify_folder` when the folder carries a manifest.
    """
    check_base(base, change)
    kind = kind_of(change)
    if not kind.mergeable:
        raise TunesmithError("ship.stands_beside", path=str(change), kind=kind.name)
    weights, new = base_weights(base, head)
    weights.update(instead)
    if kind.name == "experts":
        return _experts(base, change, weights, new, has_head=head is not None)
    if kind.name != "lora":
        return _weights(change, kind, weights, new)
    adapter = read_adapter(change, weights if head else to_model(_architecture(base), weights), new)
    changed = list(adapter.whole)
    weights.update(adapter.whole)
    for name, tensor in adapter.whole.items():
        _refuse_not_finite(change, name, tensor)
    for name in adapter.pairs:
        moved_OI = adapter.applied_to(name, weights[name])
        _refuse_not_finite(change, name, moved_OI)
        if not torch.equal(moved_OI, weights[name].float()):
            changed.append(name)
        weights[name] = moved_OI
    if not changed:
        raise TunesmithError("ship.no_change", path=str(change))
    return Merged(weights, tuple(changed), kind.name)


def base_weights(base: BaseFolder, head: Head | None) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The base's weights by name, and which of them a task head needs and the base does not have."""
    if head is None:
        return read_weights(base.path), ()
    loaded = load_with_head(base.path, head, dtype=torch.float32)
    return {name: each.detach() for name, each in loaded.model.named_parameters()}, loaded.new


def merge_into(
    loaded: Loaded, base: BaseFolder, change: Path, instead: Mapping[str, Tensor] = NOTHING_INSTEAD
) -> Loaded:
    """Put the merged weights into the base in memory, in place, in its own number format. Errors: those of `merge`."""
    merged = merge(base, change, instead, loaded.head)
    tensors = merged.tensors if loaded.head else to_model(_architecture(base), merged.tensors)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            parameter.copy_(tensors[name])
    return loaded


def _experts(
    base: BaseFolder, change: Path, weights: Mapping[str, Tensor], new: Sequence[str], *, has_head: bool
) -> Merged:
    """Experts, and a task head, in the place of the base's own: named as in its files, with a head as in the model."""
    architecture = _architecture(base)
    found, tensors = read_experts(change, new)
    named = to_files(architecture, weights) if has_head else weights
    moved = {**in_files(architecture, found, tensors), **{name: tensors[name] for name in new}}
    refuse_other_keys(change, named.keys() & moved.keys(), moved)
    changed = tuple(name for name, tensor in moved.items() if not torch.equal(tensor.float(), named[name].float()))
    if not changed:
        raise TunesmithError("ship.no_change", path=str(change))
    whole = {**named, **moved}
    return Merged(to_model(architecture, whole) if has_head else whole, changed, "experts")


def _architecture(base: BaseFolder) -> str:
    return str(read_allowed(base.path, "config.json").values.get("model_type"))


def _weights(change: Path, kind: SavedKind, base: Mapping[str, Tensor], new: Sequence[str]) -> Merged:
    moved = read_tensors(change / kind.weights)
    lacking = [name for name in new if name not in moved]
    if lacking:
        raise other_keys(change, lacking, [])
    if "lm_head.weight" in moved and "lm_head.weight" not in base:
        del moved["lm_head.weight"]  # tied: the embedding is the head
    refuse_other_keys(change, base if kind.weights == FULL_WEIGHTS else base.keys() & moved.keys(), moved)
    for name, tensor in moved.items():
        if tensor.shape != base[name].shape:
            raise other_keys(change, [], [f"{name} (shape)"])
        _refuse_not_finite(change, name, tensor)
    changed = tuple(name for name, tensor in moved.items() if not torch.equal(tensor.float(), base[name].float()))
    if not changed:
        raise TunesmithError("ship.no_change", path=str(change))
    return Merged({**base, **moved}, changed, kind.name)


def _refuse_not_finite(change: Path, name: str, tensor: Tensor) -> None:
    if not torch.isfinite(tensor).all():
        raise TunesmithError("ship.not_finite", path=str(change), tensor=name)
