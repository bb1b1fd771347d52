"""Bottleneck adapters (Houlsby, Pfeiffer, parallel): see `models/bottleneck.py` for what they compute.

On disk, in a form of our own, since PEFT knows none of them:

    bottleneck_config.json          size, places, non_linearity, scale, and the base by name
    bottleneck_model.safetensors    layers.<block>.<attention|mlp>.<down|up>.<weight|bias>, and a new task head's own
                                    tensors under the names that the model has for them
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.adapt.adapter_file import other_keys, refuse_other_keys
from tunesmith.adapt.base import copy_into, named_trainable
from tunesmith.adapt.files import BOTTLENECK_CONFIG, BOTTLENECK_WEIGHTS
from tunesmith.core.errors import TunesmithError
from tunesmith.models.allowed import read_bounded
from tunesmith.models.bottleneck import NON_LINEARITIES, Bottleneck, Places, expected_places, place_bottlenecks
from tunesmith.models.policy import Policy
from tunesmith.models.weights import read_tensors
from tunesmith.recipe.specs.adapt import BottleneckSpec

_PLACES = ("houlsby", "pfeiffer", "parallel")
_LARGEST_SIZE, _LARGEST_SCALE = 65_536, 1e6


class BottleneckAttached:
    """Bottlenecks in place on a policy."""

    mergeable = False

    def __init__(
        self,
        policy: Policy,
        placed: Mapping[str, Bottleneck],
        spec: BottleneckSpec,
        base_name: str,
        new: frozenset[str],
    ) -> None:
        own = {id(parameter): name for name, parameter in policy.named_parameters()}
        self._on_disk = {own[id(each)]: name for name, each in _parameters(placed).items()}
        self._on_disk |= {name: name.removeprefix("model.") for name in new}
        self._parameters = {name: each for name, each in policy.named_parameters() if name in self._on_disk}
        self._settings = {**settings_of(spec), "base_model_name_or_path": base_name}
        self.trainable = frozenset(self._parameters)

    def delta(self) -> dict[str, Tensor]:
        """Both matrices and both biases of every bottleneck, and a new head."""
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    def load(self, delta: Mapping[str, Tensor]) -> None:
        """Put them in place."""
        copy_into(self._parameters, delta)

    def save(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """The two files, with the names of this file's first lines."""
        (folder / BOTTLENECK_CONFIG).write_text(json.dumps(self._settings, indent=2, sort_keys=True) + "\n", "utf-8")
        named = {self._on_disk[name]: each.contiguous() for name, each in tensors.items()}
        save_file(named, folder / BOTTLENECK_WEIGHTS, metadata={"format": "pt"})


def settings_of(spec: BottleneckSpec) -> dict[str, object]:
    """What the configuration says of a recipe's settings."""
    return {
        "kind": spec.kind,
        "size": spec.size,
        "places": spec.places,
        "non_linearity": spec.non_linearity,
        "scale": spec.counts,
    }


def attach_bottleneck(
    policy: Policy, spec: BottleneckSpec, seed: int, base_name: str, new: frozenset[str] = frozenset()
) -> BottleneckAttached:
    """Put bottlenecks on a policy; before the first step nothing has changed. `new` are names of a task head's.

    Errors: adapt.no_place, packed.unknown_architecture.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        placed = _place(policy.model, spec.places, spec.size, spec.non_linearity, spec.counts)
    attached = BottleneckAttached(policy, placed, spec, base_name, new)
    named_trainable(policy, attached.trainable)
    return attached


def bottleneck_settings(change: Path) -> dict[str, object]:
    """The settings of saved bottlenecks, each checked. Errors: ship.adapter_setting, models.broken_config."""
    config = read_bounded(change / BOTTLENECK_CONFIG)
    size, scale = config.get("size"), config.get("scale")
    known = {
        "size": type(size) is int and 0 < size <= _LARGEST_SIZE,
        "places": config.get("places") in _PLACES,
        "non_linearity": config.get("non_linearity") in tuple(NON_LINEARITIES),
        "scale": isinstance(scale, int | float) and not isinstance(scale, bool) and 0 < scale <= _LARGEST_SCALE,
    }
    for key, is_known in known.items():
        if not is_known:
            raise TunesmithError("ship.adapter_setting", path=str(change), key=key, value=repr(config.get(key))[:80])
    return {"kind": "bottleneck", **{key: config[key] for key in known}}


def put_on_bottleneck(model: PreTrainedModel, change: Path, new: Collection[str] = ()) -> None:
    """Put saved bottlenecks on a model, which computes with them from then on.

    Errors: those of `bottleneck_settings` and `attach_bottleneck`, ship.adapter_keys, ship.not_finite, ship.no_change,
        models.broken_weights, core.missing_file.
    """
    settings = bottleneck_settings(change)
    if not (change / BOTTLENECK_WEIGHTS).is_file():
        raise TunesmithError("core.missing_file", path=str(change / BOTTLENECK_WEIGHTS))
    stored = read_tensors(change / BOTTLENECK_WEIGHTS)
    places, size = cast(Places, settings["places"]), cast(int, settings["size"])
    placed = _place(model, places, size, str(settings["non_linearity"]), float(cast(float, settings["scale"])))
    own = dict(model.named_parameters())
    parameters = {**_parameters(placed), **{name: own[name] for name in new}}
    refuse_other_keys(change, parameters, stored)
    for name, parameter in parameters.items():
        if stored[name].shape != parameter.shape:
            raise other_keys(change, [], [f"{name} {tuple(stored[name].shape)}"])
        if not torch.isfinite(stored[name]).all():
            raise TunesmithError("ship.not_finite", path=str(change), tensor=name)
        parameter.data.copy_(stored[name])
        parameter.requires_grad_(False)
    if not any(each.up.weight.any() or each.up.bias.any() for each in placed.values()):
        raise TunesmithError("ship.no_change", path=str(change))
    model.eval()


def _place(model: PreTrainedModel, places: Places, size: int, bend: str, scale: float) -> dict[str, Bottleneck]:
    placed = place_bottlenecks(model, places, size, bend, scale)
    if len(placed) != expected_places(model, places):
        architecture = str(model.config.model_type)
        raise TunesmithError("adapt.no_place", places=places, architecture=architecture, found=len(placed))
    return placed


def _parameters(placed: Mapping[str, Bottleneck]) -> dict[str, nn.Parameter]:
    """The parameters of bottlenecks by their names in files."""
    return {f"{name}.{inner}": each for name, one in placed.items() for inner, each in one.named_parameters()}
