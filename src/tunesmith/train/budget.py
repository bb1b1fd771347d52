"""How many tokens fit into the memory at hand: the arithmetic of `batch_size: auto`, without torch.

The process will hold, in bytes, while a micro-batch of T tokens runs, where T' are those of the largest one so far:

    held' + slope x (T - T') + logits(T) - logits(T') + (used now - used')

held'      what it held when that one ran: its pass at the highest point, and the holes that it left in the heap
slope      what was seen to be kept for the backward pass of a token, times what a pass takes beyond that; where T is
           smaller, what is kept alone
used now   less what was used then: what has come to stay since, such as the moments of the optimizer

What it does not hold now must be found: a micro-batch no larger than one that has run needs nothing new, because freed
memory stays in the process (core/process.py). Where it has been given back since, the pass is reckoned as if it were
the first, slope x T + logits(T) and the gradients beside it, less what is idle. A micro-batch may take `SPARE` of what
is free, so that a tenth is left for everybody else and for the error of this reckoning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

SPARE = 0.9
"""Share of the free memory that a micro-batch may be expected to need."""
_STEP_BYTES = 64 * 2**20
"""The heap grows in steps of this size (core/process.py)."""
_MEASURABLE = 256
"""Tokens from which a micro-batch tells its bytes a token; shorter ones are mostly what a first pass sets up."""

# What a pass takes for every byte that is held when its forward half is done. Measured on a CPU (SmolLM2-135M, LoRA
# and full, float32 and bfloat16, 330 to 7,920 tokens at once): 1.37 to 1.55, and 7 to 8 where activations are computed
# again: only the inputs of blocks are held then, and the heap is left with holes of the size of a block's work.
_HEAP_FACTOR, _HEAP_FACTOR_AGAIN = 1.6, 9.0
# An accelerator's allocator leaves smaller holes, and its errors can be caught.
_DEVICE_FACTOR, _DEVICE_FACTOR_AGAIN = 1.25, 3.0


@dataclass(frozen=True)
class Reading:
    """Memory at one moment, in bytes.

    `free` is what can still be had, of the system or on the device. `held` is what this process holds of it, `used` the
    part of that which is not idle; only differences between two readings of these mean anything.
    """

    free: int
    used: int
    held: int


def most_at_once(device: str) -> int:
    """Tokens of a micro-batch beyond which nothing is gained.

    On two CPU cores 1,320 tokens at once reached 82 % of the speed of 7,920, 2,640 tokens 96 %, 5,280 tokens 98 %
    (SmolLM2-135M, bfloat16). An accelerator wants more at once to be busy.
    """
    return 4096 if device == "cpu" else 32_768


def largest_fitting(tokens: int, fits: Callable[[int], bool], least: int = 1) -> int:
    """`tokens`, halved until it fits or nothing can be halved any more."""
    while tokens > least and not fits(tokens):
        tokens = max(least, tokens // 2)
    return tokens


class Budget:
    """What this process has learned about the bytes of its micro-batches.

    Args:
        logit_bytes: of one position of a chunk of the loss.
        chunk: positions of such a chunk.
        again: whether activations are computed again in the backward pass.
        device: "cpu" or an accelerator's name.
    """

    def __init__(self, logit_bytes: int, chunk: int, *, again: bool, device: str) -> None:
        self._logit_bytes = logit_bytes
        self._chunk = chunk
        heap, other = (_HEAP_FACTOR_AGAIN, _DEVICE_FACTOR_AGAIN) if again else (_HEAP_FACTOR, _DEVICE_FACTOR)
        self._factor = heap if device == "cpu" else other
        self._kept_per_token = 0.0
        self._kept_from = 0
        self._held_in_pass = 0
        self._used_before = 0  # at most when a pass began: gradients of earlier ones stand then
        self._never_idle = 0  # held outside of the heap, or in holes that no pass has filled
        self._ran = 0
        self._ran_at = Reading(0, 0, 0)

    @property
    def measured(self) -> bool:
        """Whether a micro-batch has run; before that nothing can be said."""
        return self._ran > 0

    def new_bytes(self, tokens: int, now: Reading) -> float:
        """Bytes that a micro-batch of so many tokens needs of the system, by the formula above."""
        more = self._kept_per_token * (tokens - self._ran)
        if more > 0:
            more = more * self._factor + self._logits(tokens) - self._logits(self._ran)
        come_to_stay = max(0, now.used - self._ran_at.used)
        needed = self._ran_at.held + more + come_to_stay - now.held
        if self._given_back(now):
            needed = max(needed, self._as_first(tokens, now))
        return max(0.0, needed)

    def fits(self, tokens: int, now: Reading) -> bool:
        """Whether a micro-batch is expected to find its memory, with something to spare."""
        needed = self.new_bytes(tokens, now)
        return not needed or needed + _STEP_BYTES <= SPARE * now.free

    def ample(self, tokens: int, now: Reading) -> bool:
        """Whether twice of all that a micro-batch takes is free, whatever the process holds already."""
        beside = max(0, self._used_before - now.used)
        return 2 * (self._pass_bytes(tokens) + beside + _STEP_BYTES) <= now.free

    def scarce(self, tokens: int, now: Reading) -> bool:
        """Whether so little is free that holes and caches, which grow with every new length, could take the rest."""
        return now.free < 2 * _STEP_BYTES + self._kept_per_token * tokens

    def hopeless(self, tokens: int, now: Reading) -> bool:
        """Whether more is needed than there is, with nothing to spare."""
        needed = self._as_first(tokens, now) if self._given_back(now) else self.new_bytes(tokens, now)
        return needed > max(0, now.free)

    def _pass_bytes(self, tokens: int) -> float:
        return self._kept_per_token * self._factor * tokens + self._logits(tokens)

    def _given_back(self, now: Reading) -> bool:
        return now.held < self._ran_at.held

    def _as_first(self, tokens: int, now: Reading) -> float:
        """Bytes of a pass and of what will stand beside it, such as gradients, less what is idle."""
        idle = max(0, now.held - now.used - self._never_idle)
        return self._pass_bytes(tokens) + max(0, self._used_before - now.used) - idle

    def forward_done(self, tokens: int, before: Reading, now: Reading) -> None:
        """Learn from the moment at which the most is held."""
        kept = max(0, now.used - before.used) / tokens
        outside = max(0, now.held - now.used)
        self._never_idle = min(self._never_idle, outside) if self.measured else outside
        self._held_in_pass = now.held
        if self._kept_from < _MEASURABLE <= tokens:
            self._kept_per_token, self._kept_from = kept, tokens
        elif self._kept_from < _MEASURABLE or tokens >= _MEASURABLE:
            self._kept_per_token = max(kept, self._kept_per_token)

    def pass_done(self, tokens: int, before: Reading, now: Reading) -> None:
        """Learn from a whole micro-batch: what it took from the system more than was expected raises the factor."""
        held = max(now.held, self._held_in_pass)
        self._used_before = max(self._used_before, before.used)
        more = tokens - self._ran
        if self._ran and more >= _MEASURABLE and self._kept_per_token:
            taken = held - before.held - _STEP_BYTES
            self._factor = max(self._factor, taken / (self._kept_per_token * more))
        if more >= 0:
            self._ran, self._ran_at = tokens, Reading(now.free, before.used, held)

    def _logits(self, tokens: int) -> float:
        return float(self._logit_bytes * min(tokens, self._chunk))
