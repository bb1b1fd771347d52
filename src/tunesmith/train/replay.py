"""Old rows among the new ones: every step holds its share of them, again an index function of (seed, epoch, step)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from tunesmith.core.seed import derive_seed
from tunesmith.models.packed import Features
from tunesmith.train.batching import Source, Windows


class ReplaySource:
    """New rows in the order of a source, and old rows drawn one after the other from endless shuffled passes.

    An epoch is one pass over the new rows. Its last step may take fewer of them, and then fewer old ones as well.

    Args:
        rows: new rows, encoded.
        old: old rows, encoded; they come round equally often.
        window: rows of one optimizer step on all ranks together, old ones among them.
        per_step: how many of them are old; at least one, and fewer than all.
        seed: of the stage.
        new: the new rows of every step, `window` less `per_step` of them, where another order than a source's is asked.
    """

    def __init__(
        self,
        rows: Sequence[Features],
        old: Sequence[Features],
        window: int,
        per_step: int,
        seed: int,
        new: Windows | None = None,
    ) -> None:
        self._old = old
        self._per_step = per_step
        self._new_per_step = window - self._per_step
        self._new = new or Source(rows, self._new_per_step, seed)
        self._seed = seed
        self.windows_per_epoch = self._new.windows_per_epoch
        last = len(rows) - (self.windows_per_epoch - 1) * self._new_per_step
        self.old_per_epoch = (self.windows_per_epoch - 1) * self._per_step + self._beside(last)

    def window(self, step: int) -> list[Features]:
        """Rows of a step, counted from 0: the new ones, then the old ones."""
        new = self._new.window(step)
        epoch, place = divmod(step, self.windows_per_epoch)
        first = epoch * self.old_per_epoch + place * self._per_step
        return new + [self._drawn(first + each) for each in range(self._beside(len(new)))]

    def _beside(self, new: int) -> int:
        """Old rows beside so many new ones."""
        return max(1, round(new * self._per_step / self._new_per_step))

    def _drawn(self, number: int) -> Features:
        """The old row of a place in the endless order."""
        turn, place = divmod(number, len(self._old))
        return self._old[self._order(turn)[place]]

    @lru_cache(maxsize=2)  # noqa: B019 - the source lives as long as the run, and two turns are all it holds
    def _order(self, turn: int) -> list[int]:
        order = list(range(len(self._old)))
        random.Random(derive_seed(self._seed, "replay order", turn)).shuffle(order)
        return order
