"""Groups of parameters: the factor of each one's step size, and whether it decays.

last block 1, the one below it `layer_decay`, then its square ...; the embedding lies below the first block
(layer-wise decay as in Clark et al. 2020, ELECTRA, 2003.10555); everything above the blocks 1
"""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase

from transformers import PreTrainedModel

from tunesmith.core.errors import TunesmithError
from tunesmith.models.sites import EMBEDDING, count_layers, layer_of, parts_of
from tunesmith.recipe.specs.groups import GroupsSpec

_PREFIX = "model."
"""Of the model's own names inside a policy."""


def depth_of(name: str, parts: frozenset[str], layers: int) -> int:
    """How many steps down from the top a parameter lies: 0 for the last block and all above it."""
    layer = layer_of(name)
    if layer is not None:
        return layers - 1 - layer
    return layers if EMBEDDING in parts else 0


def rate_factors(model: PreTrainedModel, trainable: Collection[str], spec: GroupsSpec) -> dict[str, float]:
    """Factor of the step size of every name that may move.

    Errors: adapt.group_without_effect where a setting meets no parameter that moves.
    """
    parts, layers = _parts_of_trainable(model, trainable), count_layers(model)
    factors = {name: spec.layer_decay ** depth_of(name, parts[name], layers) for name in trainable}
    if spec.layer_decay != 1 and set(factors.values()) == {1.0}:
        raise TunesmithError("adapt.group_without_effect", setting="layer_decay")
    for part, rate in spec.rates.items():
        of_part = [name for name in trainable if part in parts[name]]
        if not of_part:
            raise TunesmithError("adapt.group_without_effect", setting=f"rates.{part}")
        for name in of_part:
            factors[name] *= rate
    if spec.loraplus_lr_ratio != 1:
        seconds = [name for name in trainable if ".lora_B." in name]
        if not seconds:
            raise TunesmithError("adapt.group_without_effect", setting="loraplus_lr_ratio")
        for name in seconds:
            factors[name] *= spec.loraplus_lr_ratio
    return factors


def without_decay(trainable: Collection[str], spec: GroupsSpec) -> frozenset[str]:
    """Names that a pattern frees from weight decay. Errors: adapt.group_without_effect."""
    freed: set[str] = set()
    for pattern in spec.no_decay:
        found = {name for name in trainable if fnmatchcase(name.removeprefix(_PREFIX), pattern)}
        if not found:
            raise TunesmithError("adapt.group_without_effect", setting=f"no_decay: {pattern}")
        freed |= found
    return frozenset(freed)


def from_the_top(model: PreTrainedModel, trainable: Collection[str], blocks: int) -> list[list[str]]:
    """Names that may move, in the order in which they begin to: first what lies above the blocks and the last `blocks`
    of them, then one block after the other, the embedding at the end."""
    parts, layers = _parts_of_trainable(model, trainable), count_layers(model)
    turns = {name: max(0, depth_of(name, parts[name], layers) + 1 - blocks) for name in trainable}
    return [[name for name in trainable if turns[name] == turn] for turn in sorted(set(turns.values()))]


def _parts_of_trainable(model: PreTrainedModel, trainable: Collection[str]) -> dict[str, frozenset[str]]:
    found = parts_of(model)
    return {name: found[name.removeprefix(_PREFIX)] for name in trainable}
