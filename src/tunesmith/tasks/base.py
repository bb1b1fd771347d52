"""What every task does: rows become tokens with loss, and tokens a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example
from tunesmith.models.packed import Features, Packed


@dataclass(frozen=True)
class Encoded:
    """A row as it will be trained on, and what happened on the way.

    `cut_tokens` fell off behind the length limit; `masked_turns` are turns from which nothing that the model would ever
    say could be learned: the template rewrites them once another turn follows (thinking parts, for example), or nobody
    asked before them.
    """

    features: Features
    cut_tokens: int
    masked_turns: int = 0

    @property
    def trained_tokens(self) -> int:
        """Tokens that carry loss."""
        return sum(1 for weight in self.features.weights if weight)


class Task(Protocol):
    """What the numbers mean: one file a task."""

    tokenizer: PreTrainedTokenizerBase
    end_token_ids: frozenset[int]
    max_length: int

    def encode(self, example: Example) -> Encoded:
        """Token ids of a row, and what of them carries loss."""

    def encode_all(self, examples: Sequence[Example], ledger: Ledger) -> list[Encoded]:
        """Encode rows and enter their fates: cut tokens are counted, rows with nothing to learn are dropped."""

    def pack(self, items: Sequence[Features]) -> Packed:
        """The batch of these rows."""
