"""The routers' balance loss beside an objective: weight times the mean over blocks of `models/experts.balance`.

Its unit is the window: E sum_e f_e P_e holds two means over all tokens of an optimizer step, and the product of means
over parts of a window is not that of the whole. But f has no gradient. Once it is known of the whole window, what is
left is a sum over tokens that may be cut anywhere. So a step that is run in parts, or by several processes, is read
first (`train/look_ahead.py`), to add up how often each expert is chosen.

A token counts once for every row that it stands for: a beginning that rows share weighs what it would weigh in each of
them, so that it does not matter which rows meet in a pass. A row that a process repeats without weight counts nowhere.

Shape letters: T tokens, P places of a learned beginning, K kept positions, E experts of a block, C choices of a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tunesmith.models.experts import load_of, uneven, watching_routers
from tunesmith.models.packed import Packed
from tunesmith.models.policy import Policy
from tunesmith.objectives.base import Objective

BALANCE = "router_balance"
_Said = dict[int, tuple[Tensor, Tensor]]
"""Logits [T, E] and choices [T, C] by block."""


@dataclass(frozen=True)
class _Window:
    """Tokens of a window, each as often as it stands for a row, and how often experts are chosen, [E] by block."""

    tokens: float
    loads: Mapping[int, Tensor]


class Balanced:
    """An objective with the balance loss as one more term."""

    def __init__(self, objective: Objective, weight: float) -> None:
        self._objective = objective
        self._weight = weight
        self._window: _Window | None = None
        self._layers: tuple[int, ...] = ()

    def count(self, batch: Packed) -> dict[str, float]:
        """Those of the objective, and tokens, each as often as it stands for a row."""
        return {**self._objective.count(batch), BALANCE: float(batch.rows_by_token().sum())}

    def loss(self, policy: nn.Module, batch: Packed) -> dict[str, Tensor]:
        """The objective's sums, and what these tokens give to the balance loss of the window, times its tokens."""
        with _listening(policy) as said:
            terms = self._objective.loss(policy, batch)
        window = self._window or _window_of(said, batch)
        parts = []
        for layer, (logits_TE, choices_TC) in said.items():
            load_E = window.loads[layer]
            asked = load_E.sum() / choices_TC.shape[1]  # tokens that this block has seen
            parts.append(uneven(logits_TE, _rows(batch, len(logits_TE)), load_E) / asked)
        return {**terms, BALANCE: self._weight * window.tokens * torch.stack(parts).mean()}

    @property
    def looks_ahead(self) -> bool:
        """Loads are those of the whole step."""
        return True

    def begin(self, progress: float) -> None:
        """The next pass is taken for a whole step."""
        self._window = None

    def look(self, policy: Policy, batch: Packed) -> tuple[Tensor, ...]:
        """Tokens of a pass [1], and by block how often each expert is chosen [1, E]; numbers to be added up."""
        with _listening(policy) as said:
            policy.hidden(batch)
        found = _window_of(said, batch)
        self._layers = tuple(found.loads)
        tokens_1 = torch.tensor([found.tokens], dtype=torch.float64, device=batch.keep.device)
        return tokens_1, *(load_E[None] for load_E in found.loads.values())

    def know(self, own: slice, *seen: Tensor) -> None:
        """Add up what `look` gave for every pass."""
        tokens, *loads = (each.sum(0) for each in seen)
        self._window = _Window(float(tokens), dict(zip(self._layers, loads, strict=True)))

    def state(self) -> dict[str, object]:
        """That of the objective."""
        return self._objective.state()

    def restore(self, state: dict[str, object]) -> None:
        """Take it back."""
        self._objective.restore(state)


@contextmanager
def _listening(policy: nn.Module) -> Iterator[_Said]:
    """What the routers say inside the block. Nothing is computed here: a block may be computed again, this not."""
    said: _Said = {}

    def seen(layer: int, logits_TE: Tensor, choices_TC: Tensor) -> None:
        said[layer] = logits_TE, choices_TC

    with watching_routers(policy, seen):
        yield said


def _window_of(said: _Said, batch: Packed) -> _Window:
    """A pass that is a whole window."""
    loads = {
        layer: load_of(choices_TC, _rows(batch, len(logits_TE)), logits_TE.shape[-1])
        for layer, (logits_TE, choices_TC) in said.items()
    }
    return _Window(float(batch.rows_by_token().sum()), loads)


def _rows(batch: Packed, asked: int) -> Tensor:
    """How many rows each of the tokens stands for that a router was asked about, [asked].

    The last of fast blocks asks about the kept positions alone, which no rows share; a learned beginning stands before
    all rows.
    """
    if asked == len(batch.keep):
        return torch.ones(asked, device=batch.keep.device)
    rows_T = batch.rows_by_token()
    return torch.cat([batch.counted_rows().sum().expand(asked - len(rows_T)), rows_T])


def router_load(policy: nn.Module, batch: Packed) -> Mapping[int, Tensor]:
    """How often each expert of a block is chosen by the tokens of a batch, [E] float64, by block."""
    with torch.inference_mode(), _listening(policy) as said:
        policy(batch)
    once = {layer: torch.ones(len(logits_TE), device=logits_TE.device) for layer, (logits_TE, _) in said.items()}
    return {layer: load_of(choices, once[layer], logits.shape[-1]) for layer, (logits, choices) in said.items()}
