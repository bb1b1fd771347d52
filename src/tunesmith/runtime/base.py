"""Where one fit runs. A single process is the null object of a group: every call works and costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from tunesmith.core.seed import derive_seed
from tunesmith.models.policy import Policy


class Runtime(Protocol):
    """One process of a group of `size`, the `rank`-th, with its device."""

    rank: int
    size: int
    device: torch.device

    def place(self, policy: Policy) -> nn.Module:
        """The policy as it is called in training: moved to the device, wrapped where gradients are shared."""

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum over ranks, float64."""

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of every rank, [N, ...], those of the first rank first; ranks may hold different numbers of them."""

    def agree(self, flag: bool) -> bool:
        """True on every rank when it is true on any."""

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of a micro-batch: gradients are shared at the last one of a step."""

    def gradients_ready(self, last: bool) -> bool:
        """Whether gradients may be taken out of the parameters after this micro-batch."""

    def share(self, gradients: Sequence[Tensor]) -> None:
        """Replace each by its mean over ranks, where the policy was not placed and nobody has shared them yet."""

    def barrier(self) -> None:
        """Wait for every rank."""

    def close(self) -> None:
        """Leave the group."""


def seed_draws(device: torch.device, seed: int) -> None:
    """Seed what is drawn on a device and on the CPU.

    `torch.manual_seed` goes through every other kind of device too, which takes 0.8 ms: 4 % of a small model's step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def seed_pass(runtime: Runtime, seed: int, step: int, place: int) -> None:
    """Seed what is drawn in a pass by where it stands, so that it can be drawn again."""
    seed_draws(runtime.device, derive_seed(seed, "dropout", step, place, runtime.rank))
