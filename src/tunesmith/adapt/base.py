"""What an adaptation gives back: which names may move, and the change it made, as tensors and on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from itertools import chain
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from tunesmith.core.errors import TunesmithError

_DISTRIBUTED = "module."
"""What DDP puts before every name."""


class Attached(Protocol):
    """An adaptation in place.

    `trainable` are the names (in the policy) that may ever move; `mergeable` says whether the change can be added
    into the base's own weights.
    """

    trainable: frozenset[str]
    mergeable: bool

    def delta(self) -> dict[str, Tensor]:
        """The tensors that make up the change, by their names in the policy."""

    def load(self, delta: Mapping[str, Tensor]) -> None:
        """Put a change in place. Errors: adapt.delta_differs."""

    def save(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write the change in the form of the ecosystem; `tensors` are the values to write, named as in `delta`."""


def named_trainable(policy: nn.Module, trainable: frozenset[str]) -> dict[str, nn.Parameter]:
    """The parameters that move, in the policy's own order; every other is frozen."""
    found: dict[str, nn.Parameter] = {}
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(name in trainable)
        if name in trainable:
            found[name] = parameter
    return found


def frozen_digest(policy: nn.Module, moving: Collection[str]) -> str:
    """SHA-256 over the bytes of everything that never may move: equal before and after a fit, or something did.

    Args:
        policy: its parameters and the buffers that belong to its weights (a quantised base is nothing else).
        moving: names of what may; some of it may stand still for a while.
    """
    digest = hashlib.sha256()
    kept = policy.state_dict().keys()
    buffers = ((name, each) for name, each in policy.named_buffers() if name in kept)
    for name, tensor in chain(policy.named_parameters(), buffers):
        if name.removeprefix(_DISTRIBUTED) not in moving:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def copy_into(parameters: Mapping[str, nn.Parameter], delta: Mapping[str, Tensor]) -> None:
    """Copy a change into parameters of the same names and shapes. Errors: adapt.delta_differs."""
    if set(parameters) != set(delta):
        odd = sorted(set(parameters) ^ set(delta))
        raise TunesmithError("adapt.delta_differs", count=len(odd), first=odd[0])
    for name, parameter in parameters.items():
        if parameter.shape != delta[name].shape:
            raise TunesmithError("adapt.delta_differs", count=1, first=name)
        parameter.data.copy_(delta[name])
