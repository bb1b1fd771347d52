"""Seeds are derived, never stored: the same place in the same run always draws the same numbers."""

from __future__ import annotations

import hashlib


def derive_seed(run_seed: int, purpose: str, *place: int) -> int:
    """A 63-bit seed from the run's seed, what the numbers are for, and where (epoch, step, micro-batch, rank)."""
    text = ":".join([str(run_seed), purpose, *map(str, place)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
