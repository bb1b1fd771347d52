"""A subset moves: the last blocks alone, the parts that are named, or nothing but the biases (BitFit).

BitFit is Ben-Zaken et al. 2021 (2106.10199). On disk stand the tensors that may move and no other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from tunesmith.adapt.base import copy_into, named_trainable
from tunesmith.adapt.files import SUBSET_CONFIG, SUBSET_WEIGHTS
from tunesmith.core.errors import TunesmithError
from tunesmith.models.expert_files import to_files
from tunesmith.models.policy import Policy
from tunesmith.models.sites import count_layers, first_layer, layer_of, parts_of
from tunesmith.recipe.specs.adapt import SubsetSpec


class SubsetAttached:
    """Parameters of the model's own that may move."""

    mergeable = True

    def __init__(self, policy: Policy, names: frozenset[str], base_name: str) -> None:
        self._base_name, self._architecture = base_name, str(policy.model.config.model_type)
        self._parameters = {name: each for name, each in policy.named_parameters() if name in names}
        self.trainable = names

    def delta(self) -> dict[str, Tensor]:
        """The tensors that may move, whole."""
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    def load(self, delta: Mapping[str, Tensor]) -> None:
        """Put them in place."""
        copy_into(self._parameters, delta)

    def save(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """The tensors under the model's own names, and the base that they belong to."""
        stated = {"base_model_name_or_path": self._base_name, "kind": "subset"}
        (folder / SUBSET_CONFIG).write_text(json.dumps(stated, indent=2, sort_keys=True) + "\n", "utf-8")
        own = {name.removeprefix("model."): each for name, each in tensors.items()}
        named = {name: each.contiguous() for name, each in to_files(self._architecture, own).items()}
        save_file(named, folder / SUBSET_WEIGHTS, metadata={"format": "pt"})


def attach_subset(
    policy: Policy, spec: SubsetSpec, base_name: str, new: frozenset[str] = frozenset()
) -> SubsetAttached:
    """Free what the spec names; everything else is frozen.

    Errors: adapt.nothing_moves, adapt.no_such_layer, adapt.no_such_parameter.
    """
    names = frozenset(_chosen(policy, spec))
    if not names:
        parts = sorted({part for each in parts_of(policy.model).values() for part in each})
        raise TunesmithError("adapt.nothing_moves", wanted=", ".join(spec.parts), found=", ".join(parts))
    attached = SubsetAttached(policy, names | new, base_name)
    named_trainable(policy, attached.trainable)
    return attached


def _chosen(policy: Policy, spec: SubsetSpec) -> Iterator[str]:
    """Names in the policy of what moves."""
    found, first = parts_of(policy.model), _first_layer(policy, spec.first_layer)
    for pattern in spec.parameters:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise TunesmithError("adapt.no_such_parameter", pattern=pattern, example=next(iter(found)))
    for name, parts in found.items():
        if spec.moves(name, parts, layer_of(name), first):
            yield f"model.{name}"


def _first_layer(policy: Policy, stated: int | None) -> int:
    """The first block that may move, counted from 0; a negative number counts from the end."""
    return first_layer(stated if stated is not None else 0, count_layers(policy.model))
