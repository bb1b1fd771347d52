"""What the tasks with classes share: the set of labels, fates of rows, and how a batch is laid out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example
from tunesmith.models.allowed import read_allowed
from tunesmith.models.heads import Head
from tunesmith.models.packed import Features, Packed, pack
from tunesmith.models.sites import ENCODERS
from tunesmith.tasks.base import Encoded

_SHORTEST = 8
"""As `train.max_length` has it: less than this is no row."""
OUTSIDE = "O"
"""The tag of a token that is part of nothing."""


def label_set(examples: Iterable[Example]) -> tuple[str, ...]:
    """Every label of the rows once: `O` first, numbers by value, then names by their letters."""
    found = {label for example in examples for label in example.labels}
    return tuple(sorted(found, key=_order))


def _order(name: str) -> tuple[bool, bool, int, str]:
    is_number = name.isascii() and name.isdecimal()
    return name != OUTSIDE, not is_number, int(name) if is_number else 0, name


class Asked(Protocol):
    """What a model with a head is asked."""

    @property
    def row(self) -> int:
        """Number of the row."""

    @property
    def text(self) -> str:
        """The text, or the tokens with blanks between."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens, where they are asked one by one."""


@dataclass(frozen=True)
class Judged:
    """Classes that a model gives, and how probable it takes each to be: the labels of a text, or the tag of each token.

    A token that has no piece within the length limit has no probability: the model has not seen it.
    """

    labels: tuple[str, ...]
    probabilities: tuple[float | None, ...]


class ClassTask:
    """A tokenizer and a set of labels; one class a task below it says where classes stand in a row."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, head: Head, max_length: int, is_encoder: bool) -> None:
        self.tokenizer = tokenizer
        self.head = head
        self.max_length = max_length
        self.is_encoder = is_encoder
        self.end_token_ids: frozenset[int] = frozenset()
        self._number = {label: number for number, label in enumerate(head.labels)}

    def encode(self, example: Example) -> Encoded:
        """Token ids of a row, its classes and where they stand."""
        raise NotImplementedError

    def read(self, asked: Asked) -> Features:
        """The row without its classes, every place where the model answers marked."""
        raise NotImplementedError

    def is_cut(self, asked: Asked) -> bool:
        """Whether some of it lies behind the length limit."""
        raise NotImplementedError

    def judge(self, scores_KC: Tensor, asked: Asked) -> Judged:
        """The model's label or labels, with their probabilities."""
        raise NotImplementedError

    def answer(self, scores_KC: Tensor, asked: Asked) -> str:
        """The model's answer in words: its label or labels, in the form of `wanted`."""
        raise NotImplementedError

    def unusable(self, example: Example) -> str:
        """Why a row cannot be learned; empty when it can."""
        return ""

    def encode_all(self, examples: Sequence[Example], ledger: Ledger) -> list[Encoded]:
        """Encode rows and enter their fates: cut tokens are counted, rows without a class of their own are dropped."""
        encoded: list[Encoded] = []
        for example in examples:
            reason = self.unusable(example)
            if reason:
                ledger.decide([example.row], "dropped", reason)
                continue
            item = self.encode(example)
            if not item.features.learned:
                ledger.decide([example.row], "dropped", "no_class_within_max_length")
                continue
            if item.cut_tokens:
                ledger.decide([example.row], "truncated", "tokens_behind_max_length", [item.cut_tokens])
            encoded.append(item)
        return encoded

    def pack(self, items: Sequence[Features]) -> Packed:
        """The batch of these rows; only a causal model may read what rows begin with once for all."""
        several_of = len(self.head.labels) if self.head.several else 0
        return pack(items, share=not self.is_encoder, several_of=several_of)


def longest_row(folder: Path, stated: int, places: int = 0) -> int:
    """The limit of a row in tokens: as stated, or what the model has positions for behind a learned beginning.

    Errors: tasks.no_room where the beginning leaves none for a row.
    """
    config = read_allowed(folder, "config.json").values
    positions = config.get("max_position_embeddings")
    offset = 2 if str(config.get("model_type")).endswith("roberta") else 0
    if not isinstance(positions, int) or not positions:
        return stated
    room = positions - offset - places
    if room < _SHORTEST:
        raise TunesmithError("tasks.no_room", places=places, positions=positions - offset, least=_SHORTEST)
    return min(stated, room)


def has_encoder(folder: Path) -> bool:
    """Whether the model of a folder looks in both directions."""
    return read_allowed(folder, "config.json").values.get("model_type") in ENCODERS
