"""Penalties: terms of the loss that look at the weights alone, added once a step, in closed form.

    ewc     w/2 sum F (theta - theta0)^2      Kirkpatrick et al. 2017, 1612.00796, equation 3
    l2_sp   w/2 sum (theta - theta0)^2        Li et al. 2018, 1802.01483, equation 1 (what is new has no start to go to)
    l2      w/2 sum theta^2                   of the numbers that train
    l1      w   sum |theta|                   of the numbers that train; at 0 the slope is 0

theta0 is where the stage starts, F the diagonal of the Fisher information (`fisher.py`). For a LoRA addition the theta
of ewc and l2_sp are the numbers of the layer's own weight, which the addition moves by

    D = s (B A - B0 A0)        w.r.t. B: s (F . D) A^T        w.r.t. A: s B^T (F . D)

and not those of A and B: B is 0 at the start, so no gradient reaches A there, its Fisher is 0, and A could then turn
what little B holds wherever it likes. Also A and B may grow against each other without any change of the model.

Gradients go straight into those of the float32 masters: every process adds the same to what is the same everywhere.

Shape letters: O outputs, I inputs of a linear layer, R rank, P = 2 R.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from tunesmith.core.errors import TunesmithError
from tunesmith.models.low_rank import LowRank
from tunesmith.recipe.specs.penalties import PenaltiesSpec

_IN_CACHE = 2**18
"""Numbers of a layer's change that stand in memory together: 1 MB."""


class Penalty(Protocol):
    """One term over the masters."""

    def add(self) -> float:
        """Add the term's gradient to the masters' gradients and return its value."""


class Penalties:
    """All terms of a stage by name; none of them is the null object.

    Args:
        terms: by the name that they have in metrics.jsonl.
        measured: hash of what was measured for them before the first step; empty where nothing was.
    """

    def __init__(self, terms: Mapping[str, Sequence[Penalty]], measured: str = "") -> None:
        self._terms = terms
        self._measured = measured

    def add(self) -> dict[str, float]:
        """To be called once a step, when the gradients of its rows stand; the value of each term."""
        with torch.no_grad():
            return {name: sum(each.add() for each in parts) for name, parts in self._terms.items()}

    def state(self) -> dict[str, object]:
        """What a checkpoint must hold: the anchors are built again with the stage, the measurement is named."""
        return {"measured": self._measured}

    def restore(self, state: Mapping[str, object]) -> None:
        """Hold a checkpoint against what stands here. Errors: train.state_differs."""
        if state.get("measured", "") != self._measured:
            raise TunesmithError("train.state_differs", what="penalties.ewc")


def penalties_of(
    spec: PenaltiesSpec | None,
    masters: Mapping[str, nn.Parameter],
    additions: Sequence[LowRank],
    fisher: Mapping[str, Tensor],
    measured: str = "",
) -> Penalties:
    """The terms of a stage; the masters hold its start values now.

    Args:
        additions: the LoRA additions among the masters.
        fisher: by name of a master, or of the module of an addition; empty where the spec has no ewc.
        measured: hash of `fisher`'s file.
    """
    if spec is None:
        return Penalties({})
    terms: dict[str, list[Penalty]] = {}
    factors = {name for each in additions for name in (each.low, each.high)}
    alone = {name: master for name, master in masters.items() if name not in factors}
    if spec.ewc is not None:
        weight = spec.ewc.weight
        terms["ewc"] = [
            *(HeldProduct(weight, Addition.of(each, masters), fisher[each.module]) for each in additions),
            *(Held(weight, master, fisher[name]) for name, master in alone.items()),
        ]
    if spec.l2_sp is not None:
        terms["l2_sp"] = [
            *(NearProduct(spec.l2_sp, Addition.of(each, masters)) for each in additions),
            *(Held(spec.l2_sp, master) for master in alone.values()),
        ]
    if spec.l2 is not None:
        terms["l2"] = [Small(spec.l2, master) for master in masters.values()]
    if spec.l1 is not None:
        terms["l1"] = [Few(spec.l1, master) for master in masters.values()]
    return Penalties(terms, measured)


def _add(parameter: nn.Parameter, gradient: Tensor) -> None:
    """Into its gradient; what has none does not move in this step."""
    if parameter.grad is not None:
        parameter.grad.add_(gradient)


class Held:
    """w/2 sum F (theta - theta0)^2 of one tensor; F is 1 where none is given."""

    def __init__(self, weight: float, master: nn.Parameter, fisher: Tensor | None = None) -> None:
        self._weight = weight
        self._master = master
        self._start = master.detach().clone()
        self._fisher = None if fisher is None else fisher.to(master)

    def add(self) -> float:
        """See `Penalty`."""
        away = self._master.detach() - self._start
        pull = away if self._fisher is None else away * self._fisher
        _add(self._master, pull * self._weight)
        return 0.5 * self._weight * float(torch.sum(pull * away, dtype=torch.float64))


class Small:
    """w/2 sum theta^2 of one tensor."""

    def __init__(self, weight: float, master: nn.Parameter) -> None:
        self._weight = weight
        self._master = master

    def add(self) -> float:
        """See `Penalty`."""
        _add(self._master, self._master.detach() * self._weight)
        return 0.5 * self._weight * float(torch.sum(self._master.detach().square(), dtype=torch.float64))


class Few:
    """w sum |theta| of one tensor."""

    def __init__(self, weight: float, master: nn.Parameter) -> None:
        self._weight = weight
        self._master = master

    def add(self) -> float:
        """See `Penalty`."""
        _add(self._master, self._master.detach().sign() * self._weight)
        return self._weight * float(torch.sum(self._master.detach().abs(), dtype=torch.float64))


@dataclass(frozen=True)
class Addition:
    """A and B of a LoRA addition, and where they started (None for a start of zero)."""

    low_RI: nn.Parameter
    high_OR: nn.Parameter
    scale: float
    start: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, named: LowRank, masters: Mapping[str, nn.Parameter]) -> Addition:
        """The addition with its present values as the start."""
        low, high = masters[named.low], masters[named.high]
        began = bool((high.detach() != 0).any())
        start = (low.detach().clone(), high.detach().clone()) if began else None
        return cls(low, high, named.scale, start)

    def change(self) -> tuple[Tensor, Tensor]:
        """Factors [O, P] and [P, I] of D / s = (B - B0) A + B0 (A - A0): nothing, to the bit, at the start."""
        low_RI, high_OR = self.low_RI.detach(), self.high_OR.detach()
        if self.start is None:
            return high_OR, low_RI
        low0_RI, high0_OR = self.start
        return torch.cat([high_OR - high0_OR, high0_OR], dim=1), torch.cat([low_RI, low_RI - low0_RI], dim=0)


class HeldProduct:
    """w/2 sum F D^2 of one addition, F [O, I].

    D is made in rows that stay in the processor's cache: over the 106 million numbers of SmolLM2-135M's blocks, at rank
    16 on one core, 0.15 s a step and not 0.23 (the products' own arithmetic is some 0.13).
    """

    def __init__(self, weight: float, addition: Addition, fisher_OI: Tensor) -> None:
        self._weight = weight
        self._addition = addition
        self._fisher_OI = fisher_OI.to(addition.high_OR)

    def add(self) -> float:
        """See `Penalty`. With D = s L M the sum of F D^2 is s sum (F . D) M^T . L, which the gradient needs anyway."""
        each = self._addition
        left_OP, right_PI = each.change()
        high_OR, rank = each.high_OR.detach(), each.low_RI.shape[0]
        gradient_OP, gradient_RI = torch.empty_like(left_OP), torch.zeros_like(each.low_RI)
        rows = max(1, _IN_CACHE // right_PI.shape[1])
        for first in range(0, left_OP.shape[0], rows):
            part = slice(first, first + rows)
            pull_OI = torch.mm(left_OP[part], right_PI).mul_(self._fisher_OI[part])
            torch.mm(pull_OI, right_PI.T, out=gradient_OP[part])
            gradient_RI.addmm_(high_OR[part].T, pull_OI)
        scale = self._weight * each.scale**2
        _add(each.high_OR, gradient_OP[:, :rank] * scale)
        _add(each.low_RI, gradient_RI * scale)
        return 0.5 * scale * float(torch.sum(gradient_OP * left_OP, dtype=torch.float64))


class NearProduct:
    """w/2 sum D^2 of one addition, by products of its factors: D itself is never made."""

    def __init__(self, weight: float, addition: Addition) -> None:
        self._weight = weight
        self._addition = addition

    def add(self) -> float:
        """See `Penalty`. |L M|^2 = trace of (L^T L) (M M^T)."""
        each = self._addition
        left_OP, right_PI = each.change()
        scale = self._weight * each.scale**2
        inner_PP = left_OP.T @ left_OP
        value = torch.sum(inner_PP * (right_PI @ right_PI.T), dtype=torch.float64)
        _add(each.high_OR, left_OP @ (right_PI @ each.low_RI.detach().T) * scale)
        _add(each.low_RI, (each.high_OR.detach().T @ left_OP) @ right_PI * scale)
        return 0.5 * scale * float(value)
