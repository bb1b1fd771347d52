"""What is done about a term that is a figure of all rows of a step together: it sees them before the first pass.

Such a term (the routers' balance, KL and MMD of features) is no sum over rows. Where a step is run in several passes,
by one process or by several, every pass is therefore read beforehand, without gradients, and the terms are told what
was found in all passes on all ranks; what is left of each term is a sum over rows, which may be cut anywhere. Passes
are read as they will be run, with the same dropout. Where the step is one pass of one process, that pass holds it all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from tunesmith.models.packed import Packed
from tunesmith.models.policy import Policy
from tunesmith.runtime.base import Runtime, seed_pass


@runtime_checkable
class WindowTerm(Protocol):
    """A term of the loss that is a figure of the whole window of a step."""

    @property
    def looks_ahead(self) -> bool:
        """Whether it must see a step that is run in several passes; else it is only told where the training is."""

    def begin(self, progress: float) -> None:
        """A step begins after this share of all steps, 0 to 1. The next pass is all of it, unless `know` is called."""

    def look(self, policy: Policy, batch: Packed) -> tuple[Tensor, ...]:
        """What is to be known of one pass; of each tensor the first dimension may differ from pass to pass."""

    def know(self, own: slice, *seen: Tensor) -> None:
        """Take what `look` gave for all passes of the step: each tensor joined along its first dimension.

        Args:
            own: where what this rank has seen lies in it, in the order of its passes.
        """


class LookAhead:
    """Tells terms of the whole window where the training is, and shows them a step before it is run.

    Args:
        terms: none where every term of the loss is a sum over rows.
        policy: without what shares its gradients; nothing flows back here.
        seed: of the stage.
    """

    def __init__(
        self, terms: Sequence[WindowTerm], policy: Policy, runtime: Runtime, seed: int, total_steps: int
    ) -> None:
        self._terms = terms
        self._looking = [term for term in terms if term.looks_ahead]
        self._policy = policy
        self._runtime = runtime
        self._seed = seed
        self._total_steps = total_steps
        self._step = 0
        self._found: list[list[tuple[Tensor, ...]]] = []

    def begin(self, step: int) -> None:
        """A step begins, counted from 0."""
        self._step = step
        for term in self._terms:
            term.begin(step / self._total_steps)

    def reads(self, batches: Sequence[Packed]) -> int:
        """How often each of a step's passes on this rank is read before it is run; the same on every rank."""
        is_whole = self._runtime.size == 1 and len(batches) == 1
        return 0 if is_whole else len(self._looking)

    def look(self, batches: Sequence[Packed]) -> None:
        """Read the step's passes on this rank, in their order."""
        passes = list(enumerate(batches))
        self._found = [[self._seen(term, batch, place) for place, batch in passes] for term in self._looking]

    def _seen(self, term: WindowTerm, batch: Packed, place: int) -> tuple[Tensor, ...]:
        seed_pass(self._runtime, self._seed, self._step, place)
        with torch.no_grad():
            return term.look(self._policy, batch.to(self._runtime.device))

    def tell(self) -> None:
        """Tell the terms what was found on all ranks; every rank has looked."""
        for term, found in zip(self._looking, self._found, strict=True):
            seen = [torch.cat(parts) for parts in zip(*found, strict=True)]
            held = self._runtime.gather(torch.tensor([len(seen[0])], device=seen[0].device)).tolist()
            first = sum(held[: self._runtime.rank])
            own = slice(first, first + len(seen[0]))
            term.know(own, *(self._runtime.gather(each) for each in seen))
        self._found = []
