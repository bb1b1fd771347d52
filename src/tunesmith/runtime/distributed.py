"""Several processes that share gradients: torch's DistributedDataParallel under any torchrun-style launcher.

The launcher sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. The loop divides by counts of all ranks,
and DDP averages where a sum is needed, so the loss is scaled by the number of ranks (`LocalRuntime` has size 1).
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from inspect import signature

import torch
import torch.distributed as group
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tunesmith.core.errors import TunesmithError
from tunesmith.models.policy import Policy
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.local import choose_device

_PATIENCE = timedelta(hours=6)
"""How long a rank waits for the others: the first one answers the baseline's questions before it joins."""
_LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

_NEW_NAME = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
_STILL_BUFFERS = {"forward_sync_buffers" if _NEW_NAME else "broadcast_buffers": False}
"""Buffers are not sent around at every step; torch 2.13 gave the argument another name."""


class DistributedRuntime:
    """One rank of a DDP group: NCCL on CUDA, gloo elsewhere. Errors: runtime.no_launcher."""

    def __init__(self, spec: RuntimeSpec) -> None:
        missing = [name for name in _LAUNCHER if name not in os.environ]
        if missing:
            raise TunesmithError("runtime.no_launcher", missing=", ".join(missing))
        self.device = choose_device(spec.device)
        if self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(self.device)
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        group.init_process_group("nccl" if self.device.type == "cuda" else "gloo", timeout=_PATIENCE)
        self.rank = group.get_rank()
        self.size = group.get_world_size()
        self._placed: DistributedDataParallel | None = None

    def place(self, policy: Policy) -> nn.Module:
        """The policy inside DDP. Buffers are a frozen base's codes: they are the same on every rank and stay so."""
        devices = [self.device.index] if self.device.type == "cuda" else None
        placed = policy.to(self.device)
        self._placed = DistributedDataParallel(placed, device_ids=devices, **_STILL_BUFFERS)  # type: ignore[arg-type]
        return self._placed

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum over ranks."""
        total = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        group.all_reduce(total)
        summed: list[float] = total.tolist()
        return summed

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all ranks; every rank sends as many as the one that holds the most, and its own are cut out again."""
        mine = [0.0] * self.size
        mine[self.rank] = float(len(rows))
        held = [int(each) for each in self.sum(mine)]
        sent = rows.new_zeros((max(held), *rows.shape[1:]))
        sent[: len(rows)] = rows
        found = [torch.empty_like(sent) for _ in held]
        group.all_gather(found, sent)
        return torch.cat([each[:count] for each, count in zip(found, held, strict=True)])

    def agree(self, flag: bool) -> bool:
        """Any rank's yes is everybody's."""
        return self.sum([float(flag)])[0] > 0

    @contextmanager
    def accumulate(self, last: bool) -> Iterator[None]:
        """Hold the sharing of gradients back until the last micro-batch."""
        if last or self._placed is None:
            yield
            return
        with self._placed.no_sync():
            yield

    def gradients_ready(self, last: bool) -> bool:
        """Only after they were shared; always, where the policy was not placed and nobody shares them on the way."""
        return last or self._placed is None

    def share(self, gradients: Sequence[Tensor]) -> None:
        """Mean over ranks, in place."""
        for gradient in gradients:
            group.all_reduce(gradient)
            gradient.div_(self.size)

    def barrier(self) -> None:
        """Wait for every rank."""
        group.barrier()

    def close(self) -> None:
        """Leave the group. What still refers to it goes first: gloo's threads abort a process that ends with them."""
        self._placed = None
        gc.collect()
        group.destroy_process_group()
