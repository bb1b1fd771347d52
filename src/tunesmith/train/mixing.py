"""How often each task comes: tasks are drawn in proportion to their rows to the power 1 / T.

    T = 1      by their sizes, every row once an epoch
    T large    all tasks alike (Raffel et al. 2019, 1910.10683, section 3.5.2: temperature-scaled mixing)

Where tokens are evened out in place of rows, their tokens take the place of their rows: a task of long rows comes with
fewer of them.

An epoch has as many rows as there are, whatever T: those of small tasks come more than once, those of large ones take
turns over the epochs. Again an index function of (seed, epoch, step).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache

from tunesmith.core.seed import derive_seed
from tunesmith.models.packed import Features
from tunesmith.recipe.specs.objectives import MultitaskSpec
from tunesmith.train.batching import Source


class MixedSource:
    """Training rows of several tasks and their order.

    Args:
        rows: encoded rows.
        tasks: of every row, by the row's number.
        window: rows of one optimizer step on all ranks together.
        spec: how tasks are evened out.
        seed: of the stage.
    """

    def __init__(
        self, rows: Sequence[Features], tasks: Mapping[int, str], window: int, spec: MultitaskSpec, seed: int
    ) -> None:
        self._rows: dict[str, list[Features]] = {}
        for row in rows:
            self._rows.setdefault(tasks[row.row], []).append(row)
        sizes = {name: len(each) for name, each in self._rows.items()}
        tokens = {name: sum(len(row.token_ids) for row in each) for name, each in self._rows.items()}
        self.rows_by_task = spec.rows_by_task(sizes, tokens)
        self._window = window
        self._seed = seed
        self.windows_per_epoch = math.ceil(len(rows) / window)

    def window(self, step: int) -> list[Features]:
        """Rows of a step, counted from 0."""
        epoch, place = divmod(step, self.windows_per_epoch)
        return self._epoch(epoch).window(place)

    @lru_cache(maxsize=2)  # noqa: B019 - the source lives as long as the run, and two epochs are all it holds
    def _epoch(self, epoch: int) -> Source:
        drawn = [
            self._drawn(name, number)
            for name, count in self.rows_by_task.items()
            for number in range(epoch * count, (epoch + 1) * count)
        ]
        return Source(drawn, self._window, derive_seed(self._seed, "mixed epoch", epoch))

    def _drawn(self, task: str, number: int) -> Features:
        """The row at a place of a task's endless order."""
        turn, place = divmod(number, len(self._rows[task]))
        return self._rows[task][self._order(task, turn)[place]]

    @lru_cache(maxsize=256)  # noqa: B019 - a few turns of every task
    def _order(self, task: str, turn: int) -> list[int]:
        order = list(range(len(self._rows[task])))
        random.Random(derive_seed(self._seed, f"mixed order {task}", turn)).shuffle(order)
        return order
