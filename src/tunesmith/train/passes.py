"""In which forward passes the rows of a step are run.

The window of a step decides the mathematics and depends on the recipe alone. Into how many micro-batches it is cut
does not matter for the update, because every term is divided by its count in the whole window:

    batch_size: 8       micro-batches of 8 rows
    batch_size: auto    as few micro-batches as the memory at hand allows, by the tokens that they compute

With `auto` there is a limit of tokens for a micro-batch. It starts where more at once gains nothing, is halved before a
micro-batch that is not expected to fit, and after one that was refused its memory; then the gradients of the step are
dropped, all of them, and the step is run again, so that a refused micro-batch leaves no trace. The limit of every step
goes into the checkpoints: a replay cuts as the training did, which makes it the same to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol, TypeVar

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.models.packed import Features, Packed, common_beginning
from tunesmith.recipe.specs.train import AUTO_ROWS
from tunesmith.runtime.base import Runtime
from tunesmith.train.batching import micro_batches
from tunesmith.train.budget import Budget, Reading
from tunesmith.train.look_ahead import LookAhead
from tunesmith.train.memory import Read, is_out_of_memory, release
from tunesmith.train.optim import MasterOptimizer

Shortage = Literal["memory", "refused"]
"""Why a step was not run to its end: a micro-batch is not expected to fit any more, or was refused its memory."""
Pack = Callable[[Sequence[Features]], Packed]
Found = TypeVar("Found")

_PATIENCE = 8
"""Steps after a halving before the limit may grow; twice as many each time that it had grown too soon."""


class OnePass(Protocol):
    """Forward and backward of one micro-batch."""

    def __call__(self, batch: Packed, place: int, last: bool) -> Mapping[str, float]:
        """The sum of each term. `place` is that of the micro-batch in the step on this rank."""


@dataclass(frozen=True)
class Ran:
    """What was run for a step on this rank: its micro-batches, and the sum of each term over them."""

    batches: Sequence[Packed]
    sums: Mapping[str, float]


class Passes(Protocol):
    """How a window becomes forward passes."""

    def cut(self, step: int, window: Sequence[Features]) -> Sequence[Packed]:
        """This rank's micro-batches of a window, as they will be run if memory allows."""

    def run(
        self,
        step: int,
        window: Sequence[Features],
        batches: Sequence[Packed],
        one_pass: OnePass,
        ahead: LookAhead,
    ) -> Ran:
        """Run every micro-batch, after `ahead` has seen them all; then the gradients of the whole step stand.

        Errors: train.out_of_memory...
        """

    def forward_done(self) -> None:
        """To be called between the forward and the backward half of a pass, when the most is held."""

    def each(self, rows: Sequence[Features], look: Callable[[Packed], Found]) -> Iterator[Found]:
        """What `look` finds in rows that are only looked at, without gradients, some at a time."""

    def state(self) -> dict[str, object]:
        """What a checkpoint must hold, so that a replay cuts alike."""

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from a checkpoint."""

    def replay(self, state: Mapping[str, object]) -> None:
        """Cut as the training did whose later checkpoint holds this state."""


# ------------------------------------------------------------------------------------------------ a fixed number


class FixedPasses:
    """Micro-batches of so many rows, whatever the memory."""

    def __init__(self, pack: Pack, runtime: Runtime, rows: int, rows_looked_at: int) -> None:
        self._pack = pack
        self._runtime = runtime
        self._rows = rows
        self._rows_looked_at = rows_looked_at

    def cut(self, step: int, window: Sequence[Features]) -> Sequence[Packed]:
        """Micro-batches of so many rows."""
        cut = micro_batches(window, self._rows, self._runtime.rank, self._runtime.size)
        return [self._pack(rows) for rows in cut]

    def run(
        self,
        step: int,
        window: Sequence[Features],
        batches: Sequence[Packed],
        one_pass: OnePass,
        ahead: LookAhead,
    ) -> Ran:
        """One after the other. Errors: train.out_of_memory_fixed."""
        if ahead.reads(batches):
            _or_refused(_largest(batches), lambda _: ahead.look(batches))
            ahead.tell()
        last = len(batches) - 1
        found = [
            _or_refused(batch, partial(one_pass, place=place, last=place == last))
            for place, batch in enumerate(batches)
        ]
        return Ran(batches, _added(found))

    def forward_done(self) -> None:
        """Nothing to learn."""

    def each(self, rows: Sequence[Features], look: Callable[[Packed], Found]) -> Iterator[Found]:
        """So many rows at a time. Errors: train.out_of_memory_fixed."""
        for first in range(0, len(rows), self._rows_looked_at):
            yield _or_refused(self._pack(rows[first : first + self._rows_looked_at]), look)

    def state(self) -> dict[str, object]:
        """Nothing: the recipe says it all."""
        return {}

    def restore(self, state: Mapping[str, object]) -> None:
        """Nothing to take."""

    def replay(self, state: Mapping[str, object]) -> None:
        """Nothing to follow."""


def _or_refused(batch: Packed, work: Callable[[Packed], Found]) -> Found:
    """The work, or an error in words where memory was refused."""
    try:
        return work(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TunesmithError("train.out_of_memory_fixed", rows=_rows(batch), tokens=batch.num_tokens) from error


# ------------------------------------------------------------------------------------------------ as memory allows


class FittedPasses:
    """As few micro-batches as fit into the memory at hand.

    Args:
        most: tokens at once beyond which nothing is gained.
        window_rows: rows of a step on all ranks, for what is told.
    """

    def __init__(
        self,
        pack: Pack,
        runtime: Runtime,
        optimizer: MasterOptimizer,
        budget: Budget,
        read: Read,
        emitter: Emitter,
        *,
        most: int,
        window_rows: int,
    ) -> None:
        self._pack = pack
        self._runtime = runtime
        self._optimizer = optimizer
        self._budget = budget
        self._read = read
        self._emitter = emitter
        self._window_rows = window_rows
        self._most = most
        self._limit = self._looking_limit = most
        self._changes: list[tuple[int, int]] = []
        self._recorded: list[tuple[int, int]] = []
        self._begun = self._grown = False
        self._patience = _PATIENCE
        self._no_growth_before = 0
        self._running: tuple[int, Reading] | None = None

    # -------------------------------------------------------------------------------------------- cutting

    def cut(self, step: int, window: Sequence[Features]) -> Sequence[Packed]:
        """As few micro-batches as are expected to fit; as recorded in a replay. Errors: train.out_of_memory."""
        rows = self._share(window)
        if self._recorded:
            self._limit = _in_force(self._recorded, step)
            return [batch for _, batch in self._pieces(rows, self._limit)]
        self._begin(step)
        batches = [batch for _, batch in self._pieces(rows, self._limit)]
        if not self._budget.measured:
            return batches
        now = self._now_or_released(batches)
        while self._runtime.agree(any(self._crowded(each, now) for each in batches)):
            self._halve(step, batches, "memory")
            batches = [batch for _, batch in self._pieces(rows, self._limit)]
        for batch in batches:
            if self._budget.hopeless(batch.num_tokens, now):
                raise self._refusal(batch, now)
        return batches

    def _share(self, window: Sequence[Features]) -> Sequence[Features]:
        """This rank's rows of a window."""
        size = self._runtime.size
        return micro_batches(window, math.ceil(len(window) / size), self._runtime.rank, size)[0]

    def _pieces(self, rows: Sequence[Features], limit: int) -> list[tuple[Sequence[Features], Packed]]:
        """The rows as one micro-batch, or its halves until each has at most so many tokens or one row."""
        batch = self._pack(rows)
        if batch.num_tokens <= limit or len(rows) == 1:
            return [(rows, batch)]
        first, second = _halves(rows)
        return self._pieces(first, limit) + self._pieces(second, limit)

    def _begin(self, step: int) -> None:
        """Tell the limit of the beginning once, and later on raise it where there is ample room again."""
        if not self._begun:
            self._begun = True
            self._emitter.emit("batch", step=step + 1, reason="start", rows=self._window_rows, tokens=self._limit)
        elif self._budget.measured and self._limit < self._most and step >= self._no_growth_before:
            more = min(2 * self._limit, self._most)
            now = self._now()
            if not self._runtime.agree(not self._budget.ample(more, now)):
                self._change(step, more, "room", now)
                self._grown = True

    def _now_or_released(self, batches: Sequence[Packed]) -> Reading:
        """The memory; where it is short, after what is held and not used was given back."""
        now = self._now()
        largest = max(batch.num_tokens for batch in batches)
        if self._budget.scarce(largest, now) or not self._budget.fits(largest, now):
            release(cycles=False)
            now = self._now()
        return now

    def _crowded(self, batch: Packed, now: Reading) -> bool:
        return _rows(batch) > 1 and not self._budget.fits(batch.num_tokens, now)

    def _halve(self, step: int, batches: Sequence[Packed], reason: str) -> None:
        """Half the tokens of the largest micro-batch on any rank become the limit."""
        mine = [0.0] * self._runtime.size
        mine[self._runtime.rank] = float(max(batch.num_tokens for batch in batches))
        largest = int(max(self._runtime.sum(mine)))
        self._change(step, max(1, min(self._limit, largest) // 2), reason, self._now(), largest)
        if self._grown:
            self._patience *= 2  # it grew too soon
            self._grown = False
        self._no_growth_before = step + self._patience

    def _change(self, step: int, limit: int, reason: str, now: Reading, before: int | None = None) -> None:
        self._emitter.emit(
            "batch",
            step=step + 1,
            reason=reason,
            tokens_before=before or self._limit,
            tokens=limit,
            needed_bytes=round(self._budget.new_bytes(before or limit, now)),
            free_bytes=now.free,
        )
        self._limit = limit

    # -------------------------------------------------------------------------------------------- running

    def run(
        self,
        step: int,
        window: Sequence[Features],
        batches: Sequence[Packed],
        one_pass: OnePass,
        ahead: LookAhead,
    ) -> Ran:
        """Run them; where memory is refused, halve the limit and run the whole step again, which is seen anew.

        Errors: train.out_of_memory where a single row does not fit, train.out_of_memory_again in a replay.
        """
        if not self._budget.measured and not self._recorded:
            self._measure(window, one_pass)
            batches = self.cut(step, window)
        while True:
            found = self._look_ahead(batches, ahead) or self._attempt(batches, one_pass)
            short = self._runtime.agree(isinstance(found, str))
            if not short and not isinstance(found, str):
                break
            batches = self._after_failure(step, window, batches, refused=found == "refused")
        self._runtime.share(self._optimizer.gradients())
        self._remember(step)
        return Ran(batches, found)

    def _after_failure(
        self, step: int, window: Sequence[Features], batches: Sequence[Packed], *, refused: bool
    ) -> Sequence[Packed]:
        """Drop what the step has gathered so far, and cut anew by half. What was refused once is not tried again."""
        self._optimizer.drop()
        release(cycles=True)
        refused = self._runtime.agree(refused)
        self._halve(step, batches, "refused" if refused else "memory")
        if refused:
            self._most = self._limit
        return self.cut(step, window)

    def _look_ahead(self, batches: Sequence[Packed], ahead: LookAhead) -> Shortage | None:
        """Show the micro-batches beforehand; on every rank why that was not done, if any was refused its memory.

        Errors: train.out_of_memory where a single row has no room, train.out_of_memory_again in a replay.
        """
        if not ahead.reads(batches):
            return None
        before, refused = self._now(), False
        try:
            ahead.look(batches)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            largest = _largest(batches)
            if _rows(largest) == 1 or self._recorded:
                raise self._refusal(largest, before) from None
            refused = True
        if self._runtime.agree(refused):
            return "refused"
        ahead.tell()
        return None

    def _measure(self, window: Sequence[Features], one_pass: OnePass) -> None:
        """Run the longest row alone, twice, and drop its gradients: from then on bytes are told, not guessed.

        The second time the gradients of the first stand beside it, as those of earlier micro-batches will.
        """
        row = max(self._share(window), key=lambda each: len(each.token_ids))
        batch = self._pack([row])
        if self._now_or_released([batch]).free < 0:
            raise TunesmithError("train.out_of_memory_update", needed=_megabytes(self._optimizer.coming_bytes))
        for _ in range(2):
            self._attempt([batch], one_pass)
        self._optimizer.drop()

    def _attempt(self, batches: Sequence[Packed], one_pass: OnePass) -> Mapping[str, float] | Shortage:
        """The sums of all micro-batches, or why they were not all run.

        Errors: train.out_of_memory where a single row has no room, train.out_of_memory_again in a replay.
        """
        found: list[Mapping[str, float]] = []
        for place, batch in enumerate(batches):
            before = self._now()
            if self._budget.scarce(batch.num_tokens, before):
                release(cycles=False)
                before = self._now()
                if self._crowded(batch, before) and not self._recorded:
                    return "memory"
                if self._budget.hopeless(batch.num_tokens, before):
                    raise self._refusal(batch, before)
            self._running = (batch.num_tokens, before)
            try:
                found.append(one_pass(batch, place, place == len(batches) - 1))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if _rows(batch) == 1 or self._recorded:
                    raise self._refusal(batch, before) from None
                return "refused"
            self._budget.pass_done(batch.num_tokens, before, self._now())
        return _added(found)

    def forward_done(self) -> None:
        """Learn what the pass holds now."""
        if self._running is not None:
            self._budget.forward_done(*self._running, self._now())

    def _now(self) -> Reading:
        """The memory, less what the first update will take for good."""
        now = self._read()
        return replace(now, free=now.free - self._optimizer.coming_bytes)

    def _refusal(self, batch: Packed, now: Reading) -> TunesmithError:
        if self._recorded and _rows(batch) > 1:
            return TunesmithError("train.out_of_memory_again", tokens=batch.num_tokens)
        # What was refused is more than there is, whatever the reckoning says.
        needed = max(self._budget.new_bytes(batch.num_tokens, now), now.free)
        facts = {"needed": _megabytes(needed), "free": _megabytes(now.free)}
        return TunesmithError("train.out_of_memory", tokens=batch.num_tokens, **facts)

    # -------------------------------------------------------------------------------------------- looking

    def each(self, rows: Sequence[Features], look: Callable[[Packed], Found]) -> Iterator[Found]:
        """As many rows at a time as a training step takes at most; where memory is refused, half of them.

        Errors: train.out_of_memory where a single row does not fit.
        """
        for first in range(0, len(rows), AUTO_ROWS):
            for part, batch in self._pieces(rows[first : first + AUTO_ROWS], min(self._limit, self._looking_limit)):
                yield from self._looked(part, batch, look)

    def _looked(self, rows: Sequence[Features], batch: Packed, look: Callable[[Packed], Found]) -> list[Found]:
        before = self._now()
        try:
            return [look(batch)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(rows) == 1:
                raise self._refusal(batch, before) from None
        release(cycles=True)
        self._looking_limit = batch.num_tokens // 2
        self._emitter.emit(
            "batch", reason="validation", tokens_before=batch.num_tokens, tokens=self._looking_limit,
            free_bytes=before.free,
        )  # fmt: skip
        return [found for part in _halves(rows) for found in self._looked(part, self._pack(part), look)]

    # -------------------------------------------------------------------------------------------- remembering

    def state(self) -> dict[str, object]:
        """From which step on which limit was in force, and what decides about the next."""
        return {
            "limits": [list(each) for each in self._changes],
            "most": self._most,
            "looking_limit": self._looking_limit,
            "patience": self._patience,
            "no_growth_before": self._no_growth_before,
            "grown": self._grown,
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on with the limits that were in force."""
        self._most = min(self._most, _number(state, "most", self._most))
        self._looking_limit = _number(state, "looking_limit", self._looking_limit)
        self._patience = _number(state, "patience", self._patience)
        self._no_growth_before = _number(state, "no_growth_before", self._no_growth_before)
        self._grown = bool(_number(state, "grown", self._grown))
        self._changes = _limits_of(state)
        if self._changes:
            self._limit = min(self._most, self._changes[-1][1])

    def replay(self, state: Mapping[str, object]) -> None:
        """From now on the recorded limits decide, and the memory no longer."""
        self._recorded = _limits_of(state)

    def _remember(self, step: int) -> None:
        self._changes = [each for each in self._changes if each[0] < step]
        if not self._changes or self._changes[-1][1] != self._limit:
            self._changes.append((step, self._limit))


def _limits_of(state: Mapping[str, object]) -> list[tuple[int, int]]:
    stated = state.get("limits")
    return [(int(step), int(limit)) for step, limit in stated] if isinstance(stated, list) else []


def _number(state: Mapping[str, object], name: str, otherwise: int) -> int:
    value = state.get(name)
    return value if isinstance(value, int) else otherwise


def _in_force(limits: Sequence[tuple[int, int]], step: int) -> int:
    return [limit for first, limit in limits if first <= step or first == limits[0][0]][-1]


def _halves(rows: Sequence[Features]) -> tuple[Sequence[Features], Sequence[Features]]:
    """Two parts of at least one row, near half of the tokens, and rather between rows that do not begin alike."""
    lengths = [len(row.token_ids) for row in rows]
    half = sum(lengths) / 2

    def cost(place: int) -> float:
        """Tokens off the middle, and those that both parts will compute: these are work, so they count twice."""
        shared = common_beginning(rows[place - 1].token_ids, rows[place].token_ids)
        return abs(sum(lengths[:place]) - half) + 2 * shared

    place = min(range(1, len(rows)), key=cost)
    return rows[:place], rows[place:]


def _largest(batches: Sequence[Packed]) -> Packed:
    return max(batches, key=lambda batch: batch.num_tokens)


def _rows(batch: Packed) -> int:
    """Rows of a batch; documents that rows share are none of them."""
    return int((batch.row >= 0).sum())


def _added(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(each[name] for each in found) for name in (found[0] if found else ())}


def _megabytes(number: float) -> int:
    return max(0, round(number / 2**20))
