"""Progressive unfreezing: what may move begins to move one turn after the other (Howard and Ruder 2018, 1801.06146).

Which turn it is, is state: a fit that goes on begins where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from tunesmith.recipe.specs.groups import UnfreezeSpec


class Unfreezing:
    """Frees groups of parameters in turn.

    Args:
        turns: parameters that begin to move together, in order; none where everything moves from the start.
        spec: when the next turn comes.
    """

    def __init__(self, turns: Sequence[Sequence[nn.Parameter]], spec: UnfreezeSpec | None) -> None:
        self._turns = turns
        self._spec = spec
        self._without_gain = 0
        self.turn = 0
        self._apply()

    @property
    def turns_left(self) -> int:
        """How many groups stand still."""
        return max(0, len(self._turns) - 1 - self.turn)

    def after_step(self, step: int) -> bool:
        """Whether a group begins to move after this step, counted from 1."""
        every = self._spec.every_steps if self._spec else None
        return every is not None and step % every == 0 and self._advance()

    def after_validation(self, gained: bool) -> bool:
        """Whether a group begins to move after a validation that did or did not bring a gain."""
        patience = self._spec.patience if self._spec else None
        if patience is None:
            return False
        self._without_gain = 0 if gained else self._without_gain + 1
        return self._without_gain >= patience and self._advance()

    def _advance(self) -> bool:
        if not self.turns_left:
            return False
        self.turn += 1
        self._without_gain = 0
        self._apply()
        return True

    def _apply(self) -> None:
        for place, parameters in enumerate(self._turns):
            for parameter in parameters:
                parameter.requires_grad_(place <= self.turn)

    def state(self) -> dict[str, object]:
        """For the checkpoint."""
        return {"turn": self.turn, "without_gain": self._without_gain}

    def restore(self, state: Mapping[str, object]) -> None:
        """From the checkpoint."""
        self.turn, self._without_gain = int(str(state["turn"])), int(str(state["without_gain"]))
        self._apply()
