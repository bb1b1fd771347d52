"""Which rows make up each optimizer step: an index function of (seed, epoch, step), so its state is a number.

The window of a step (all its micro-batches on all ranks) is drawn first and then cut, so that batch 8, 2 x 4
accumulated and 2 processes x 4 see the same rows in the same step.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Protocol

from tunesmith.core.seed import derive_seed
from tunesmith.models.packed import SHARED_AT_LEAST, Features, common_beginning

_WINDOWS_SORTED_TOGETHER = 16
"""Rows are shuffled, then sorted by length within this many windows, then the windows are shuffled again: rows of a
window are of like length, which the attention likes, while which rows meet stays random."""

_MOSTLY_SHARED = 0.5
"""Rows meet in one step on purpose where at least so much of them is a beginning they share (questions about one
passage): a batch computes that beginning once."""


class Windows(Protocol):
    """The rows of every step."""

    @property
    def windows_per_epoch(self) -> int:
        """Steps of a pass over the training rows."""

    def window(self, step: int) -> list[Features]:
        """Rows of a step, counted from 0."""


class Source:
    """Training rows and their order.

    Args:
        rows: encoded rows.
        window: rows of one optimizer step on all ranks together.
        seed: of the stage.
    """

    def __init__(self, rows: Sequence[Features], window: int, seed: int) -> None:
        self._rows = rows
        self._window = window
        self._seed = seed
        self.windows_per_epoch = math.ceil(len(rows) / window)

    def window(self, step: int) -> list[Features]:
        """Rows of a step, counted from 0. The last window of an epoch may be smaller: no row is left out."""
        epoch, place = divmod(step, self.windows_per_epoch)
        return [self._rows[index] for index in self._order(epoch)[place]]

    @lru_cache(maxsize=2)  # noqa: B019 - the source lives as long as the run, and two epochs are all it holds
    def _order(self, epoch: int) -> list[list[int]]:
        draw = random.Random(derive_seed(self._seed, "row order", epoch))
        units = [list(unit) for unit in self._units]
        draw.shuffle(units)
        for unit in units:
            draw.shuffle(unit)
        order: list[int] = []
        for part in _parts(units, self._window * _WINDOWS_SORTED_TOGETHER):
            part.sort(key=lambda unit: sum(len(self._rows[index].token_ids) for index in unit) / len(unit))
            order.extend(index for unit in part for index in unit)
        windows = [order[first : first + self._window] for first in range(0, len(order), self._window)]
        # The small window stays last, so that an epoch has the same steps whatever the shuffle.
        short = [window for window in windows if len(window) < self._window]
        full = [window for window in windows if len(window) == self._window]
        draw.shuffle(full)
        return full + short

    @cached_property
    def _units(self) -> list[list[int]]:
        """Rows that stand next to each other in the order: those that mostly share their beginning, the others alone.

        Where a window ends in such a unit, its rows meet in two steps. More rows than a window holds meet often enough
        without help.
        """
        alphabetical = sorted(range(len(self._rows)), key=lambda index: self._rows[index].token_ids)
        clusters: list[list[int]] = []
        for index in alphabetical:
            if clusters and self._mostly_alike(clusters[-1][-1], index):
                clusters[-1].append(index)
            else:
                clusters.append([index])
        units: list[list[int]] = []
        for cluster in clusters:
            units.extend([cluster] if len(cluster) <= self._window else [[index] for index in cluster])
        return sorted(units)

    def _mostly_alike(self, left: int, right: int) -> bool:
        first, second = self._rows[left].token_ids, self._rows[right].token_ids
        return common_beginning(first, second) >= max(SHARED_AT_LEAST, _MOSTLY_SHARED * max(len(first), len(second)))


def _parts(units: Sequence[list[int]], rows: int) -> Iterator[list[list[int]]]:
    """Units in runs that hold about so many rows."""
    part: list[list[int]] = []
    held = 0
    for unit in units:
        part.append(unit)
        held += len(unit)
        if held >= rows:
            yield part
            part, held = [], 0
    if part:
        yield part


def micro_batches(window: Sequence[Features], per_batch: int, rank: int, size: int) -> list[list[Features]]:
    """This rank's micro-batches of a window, in order. Every rank gets the same number of them.

    Where rows do not go round, a rank repeats a row with no weight: it computes, and adds nothing.
    """
    rounds = math.ceil(len(window) / (per_batch * size))
    batches: list[list[Features]] = []
    for turn in range(rounds):
        first = (turn * size + rank) * per_batch
        rows = list(window[first : first + per_batch])
        batches.append(rows or [replace(window[0], weights=(0.0,) * len(window[0].weights))])
    return batches
