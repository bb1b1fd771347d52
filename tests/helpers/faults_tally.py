"""What one test of the fault table may ask and must tell."""

from __future__ import annotations

import random
from collections import Counter


class Tally:
    """What one test of the table may ask and must tell."""

    def __init__(self, full: bool, seed: int) -> None:
        self.full = full
        self.seed = seed
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()

    def amount(self, a_few: int, all_of_them: int) -> int:
        """How many: the first number in `make test`, the second in `make test-faults`."""
        return all_of_them if self.full else a_few

    def count(self, what: str, number: int = 1) -> None:
        """So many more were tried; `what` is a plural such as "kills"."""
        self.counts[what] += number
