"""Full fine-tuning: every parameter of the model moves."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from tunesmith.adapt.base import copy_into, named_trainable
from tunesmith.adapt.files import FULL_WEIGHTS
from tunesmith.models.expert_files import to_files
from tunesmith.models.policy import Policy


class FullAttached:
    """Every parameter in place, free to move."""

    mergeable = True

    def __init__(self, policy: Policy) -> None:
        self._config = policy.model.config
        self._parameters = dict(policy.named_parameters())
        self.trainable = frozenset(self._parameters)

    def delta(self) -> dict[str, Tensor]:
        """All weights; weights that are tied appear once."""
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    def load(self, delta: Mapping[str, Tensor]) -> None:
        """Put all weights in place."""
        copy_into(self._parameters, delta)

    def save(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """`config.json` and `model.safetensors` with the model's own names."""
        config = copy.deepcopy(self._config)
        config.dtype = next(iter(tensors.values())).dtype  # what is in the file, not what the model computes in
        config.save_pretrained(str(folder))
        own = {name.removeprefix("model."): each for name, each in tensors.items()}
        named = {name: each.contiguous() for name, each in to_files(str(config.model_type), own).items()}
        save_file(named, folder / FULL_WEIGHTS, metadata={"format": "pt"})


def attach_full(policy: Policy) -> FullAttached:
    """Free every parameter."""
    attached = FullAttached(policy)
    named_trainable(policy, attached.trainable)
    return attached
