"""One process on a CPU, a CUDA device or Apple's MPS."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from tunesmith.core.errors import TunesmithError
from tunesmith.models.policy import Policy
from tunesmith.recipe.specs.runtime import RuntimeSpec


def choose_device(wanted: str) -> torch.device:
    """The device of a recipe; auto takes CUDA, then MPS, then the CPU. Errors: runtime.no_device."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        wanted = next(name for name, there in found.items() if there)
    if not found[wanted]:
        raise TunesmithError(
            "runtime.no_device", wanted=wanted, found=", ".join(n for n, there in found.items() if there)
        )
    return torch.device(wanted)


class LocalRuntime:
    """A group of one."""

    rank = 0
    size = 1

    def __init__(self, spec: RuntimeSpec) -> None:
        self.device = choose_device(spec.device)
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)

    def place(self, policy: Policy) -> nn.Module:
        """The policy on the device."""
        return policy.to(self.device)

    def sum(self, values: Sequence[float]) -> list[float]:
        """The values themselves."""
        return list(values)

    def gather(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows

    def agree(self, flag: bool) -> bool:
        """The flag itself."""
        return flag

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Nothing to share."""
        return nullcontext()

    def gradients_ready(self, last: bool) -> bool:
        """Always: nobody waits for them."""
        return True

    def share(self, gradients: Sequence[Tensor]) -> None:
        """They are everybody's."""

    def barrier(self) -> None:
        """Nobody to wait for."""

    def close(self) -> None:
        """Nothing to leave."""
