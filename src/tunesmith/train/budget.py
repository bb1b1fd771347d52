"""How many tokens fit into the memory at hand: the arithmetic of `batch_size: auto`, without torch.

What one more micro-batch needs of the system, in bytes, where T are its tokens and the rest is remembered from the
largest micro-batch that has run in this process (its tokens are T'):

    slope x max(0, T - T')        what was held for the backward pass of a token, times what a pass takes beyond that
    + logits(T) - logits(T')      one chunk of logits
    + held' - held now            memory that the process gave back since, where its allocator does so
    + used now - used'            what has come to stay since, such as the moments of the optimizer

A micro-batch no larger than one that has run needs nothing new: freed memory stays in the process (core/process.py).
It may take `SPARE` of what is free, so that a tenth is left for everybody else and for the error of this reckoning.
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
    """Memory at one moment, in bytes: free in the system (or on the device), used by this process, held by it."""

    free: int
    used: int
    held: int

    @property
    def within_reach(self) -> int:
        """What could be had if nothing were kept in reserve and the heap had no holes."""
        return self.free + self.held - self.used


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
        self._ran = 0
        self._ran_at = Reading(0, 0, 0)

    @property
    def measured(self) -> bool:
        """Whether a micro-batch has run; before that nothing can be said."""
        return self._ran > 0

    def new_bytes(self, tokens: int, now: Reading) -> float:
        """Bytes that a micro-batch of so many tokens needs of the system, by the formula above."""
        more = self._kept_per_token * self._factor * max(0, tokens - self._ran)
        more += max(0.0, self._logits(tokens) - self._logits(self._ran))
        given_back, come_to_stay = self._ran_at.held - now.held, now.used - self._ran_at.used
        return more + max(0, given_back) + max(0, come_to_stay)

    def fits(self, tokens: int, now: Reading) -> bool:
        """Whether a micro-batch is expected to find its memory."""
        needed = self.new_bytes(tokens, now)
        return not needed or needed + _STEP_BYTES <= SPARE * now.free

    def hopeless(self, tokens: int, now: Reading) -> bool:
        """Whether what must be held alone, without holes and reserve, is more than there is."""
        return tokens > self._ran and self.least_bytes(tokens) > now.within_reach

    def least_bytes(self, tokens: int) -> float:
        """What is held between the forward and the backward pass of so many tokens."""
        return self._kept_per_token * tokens

    def forward_done(self, tokens: int, before: Reading, now: Reading) -> None:
        """Learn from the moment at which the most is held."""
        kept = max(0, now.used - before.used) / tokens
        self._held_in_pass = now.held
        if self._kept_from < _MEASURABLE <= tokens:
            self._kept_per_token, self._kept_from = kept, tokens
        elif self._kept_from < _MEASURABLE or tokens >= _MEASURABLE:
            self._kept_per_token = max(kept, self._kept_per_token)

    def pass_done(self, tokens: int, before: Reading, now: Reading) -> None:
        """Learn from a whole micro-batch: what it took from the system more than was expected raises the factor."""
        held = max(now.held, self._held_in_pass)
        more = tokens - self._ran
        if self._ran and more >= _MEASURABLE and self._kept_per_token:
            taken = held - before.held - _STEP_BYTES
            self._factor = max(self._factor, taken / (self._kept_per_token * more))
        if more >= 0:
            self._ran, self._ran_at = tokens, Reading(now.free, before.used, held)

    def _logits(self, tokens: int) -> float:
        return float(self._logit_bytes * min(tokens, self._chunk))
