"""The one text batch: documents stand end to end, without padding, and each attends only to itself.

Shape letters: T tokens of the batch, D documents, K positions whose logits are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import torch
from torch import Tensor

SHARED_AT_LEAST = 16
"""Shortest common beginning worth a parent document."""


@dataclass(frozen=True)
class Features:
    """One encoded row: token ids and the loss weight of each (0 where the token is only read).

    `classes` are the classes of each token that carries loss, one or, where they do not exclude each other, any number;
    without them a token is learned by predicting it. `head` is which of several heads they are asked of.
    """

    row: int
    token_ids: tuple[int, ...]
    weights: tuple[float, ...]
    classes: tuple[tuple[int, ...], ...] = ()
    head: int = 0

    @property
    def learned(self) -> int:
        """Positions that carry loss. Of predicted tokens the first never does: nothing stands before it."""
        return sum(1 for weight in self.weights[0 if self.classes else 1 :] if weight)


@dataclass(frozen=True)
class Packed:
    """A batch of D documents.

    `parent[d]` is the document whose tokens come before document d, or -1: rows that begin with the same system
    prompt or passage share it, exactly; a parent's own `row` is -1. `keep` are the positions that predict a token which
    carries loss; `target` is that token and `weight` its share. In rows with classes `keep` are the tokens that have
    them, and `target` is the class, or a row of C numbers, 1 for every class that holds.
    """

    token_ids: Tensor  # [T]
    position_ids: Tensor  # [T] restart in each document, or go on after its parent
    offsets: Tensor  # [D+1]
    parent: Tensor  # [D]
    keep: Tensor  # [K]
    target: Tensor  # [K], or [K, C] where classes do not exclude each other
    weight: Tensor  # [K] float32
    row: Tensor  # [D]
    below: Tensor | None = None  # [T, W] what the blocks that never change make of the tokens, where that is kept

    def to(self, device: torch.device) -> Packed:
        """The same batch on a device."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Tensor] = {name: part.to(device) for name, part in parts.items() if part is not None}
        return replace(self, **moved)

    @property
    def num_tokens(self) -> int:
        """T."""
        return int(self.token_ids.numel())

    def counted_rows(self) -> Tensor:
        """Which documents are rows with a place that carries loss, [D]: one that a rank repeats without weight, so that
        it has something to compute, is none."""
        places_D = torch.bincount(self.document_of_kept(), minlength=len(self.row))
        return (self.row >= 0) & (places_D > 0)

    def rows_by_token(self) -> Tensor:
        """How many rows each token stands for, [T]: its own, or all that share the beginning it is part of; none where
        the row does not count."""
        parents, rows = self.parent.tolist(), self.counted_rows().int().tolist()
        for document in reversed(range(len(parents))):
            if parents[document] >= 0:
                rows[parents[document]] += rows[document]
        lengths = self.offsets.diff()
        return torch.tensor(rows, device=lengths.device).repeat_interleave(lengths)

    def document_of_kept(self) -> Tensor:
        """The document of every kept position, [K]."""
        return torch.searchsorted(self.offsets, self.keep, right=True) - 1


def pack(items: Sequence[Features], *, share: bool = True, several_of: int = 0) -> Packed:
    """Lay rows end to end; rows that begin alike share that beginning as one parent document.

    Args:
        share: off where a token also looks at those behind it, so that beginnings are not alike.
        several_of: number of classes that do not exclude each other; 0 where they do, or where there are none.
    """
    layout = _Layout(several_of)
    for group in _groups_of_like_beginning(items) if share else [[item] for item in items]:
        shared = _shared_length(group)
        parent = layout.add(-1, group[0].token_ids[:shared], (0.0,) * shared, -1, 0) if shared else -1
        for item in group:
            layout.add(item.row, item.token_ids[shared:], item.weights[shared:], parent, shared, item.classes)
    return layout.batch()


class _Layout:
    """Collects documents into the lists of a batch."""

    def __init__(self, several_of: int) -> None:
        self._several_of = several_of
        self._offsets = [0]
        self._token_ids: list[int] = []
        self._position_ids: list[int] = []
        self._parent: list[int] = []
        self._keep: list[int] = []
        self._target: list[int | list[float]] = []
        self._weight: list[float] = []
        self._row: list[int] = []

    def add(
        self,
        row: int,
        token_ids: Sequence[int],
        weights: Sequence[float],
        parent: int,
        position: int,
        classes: Sequence[Sequence[int]] = (),
    ) -> int:
        """Append a document that starts at `position`; returns its number."""
        first = self._offsets[-1]
        self._token_ids.extend(token_ids)
        self._position_ids.extend(range(position, position + len(token_ids)))
        self._offsets.append(len(self._token_ids))
        self._parent.append(parent)
        self._row.append(row)
        # A predicted token is seen from the one before it, a class from its own token.
        before = 0 if classes else 1
        stated = iter(classes)
        for place in range(before, len(token_ids)):
            if weights[place] != 0:
                self._keep.append(first + place - before)
                self._target.append(self._classes(next(stated)) if classes else token_ids[place])
                self._weight.append(weights[place])
        return len(self._row) - 1

    def _classes(self, stated: Sequence[int]) -> int | list[float]:
        if not self._several_of:
            return stated[0]
        return [float(each in stated) for each in range(self._several_of)]

    def batch(self) -> Packed:
        """The lists as tensors."""
        return Packed(
            token_ids=torch.tensor(self._token_ids, dtype=torch.long),
            position_ids=torch.tensor(self._position_ids, dtype=torch.long),
            offsets=torch.tensor(self._offsets, dtype=torch.long),
            parent=torch.tensor(self._parent, dtype=torch.long),
            keep=torch.tensor(self._keep, dtype=torch.long),
            target=self._targets(),
            weight=torch.tensor(self._weight, dtype=torch.float32),
            row=torch.tensor(self._row, dtype=torch.long),
        )

    def _targets(self) -> Tensor:
        if self._several_of:
            return torch.tensor(self._target, dtype=torch.float32).reshape(-1, self._several_of)
        return torch.tensor(self._target, dtype=torch.long)


def common_beginning(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    shorter = min(len(left), len(right))
    return next((place for place in range(shorter) if left[place] != right[place]), shorter)


def _groups_of_like_beginning(items: Sequence[Features]) -> list[list[Features]]:
    """The rows in groups whose shared beginnings save the most tokens together.

    In the order of their tokens, rows that begin alike are neighbours, and what a group shares is what its least like
    neighbours share; so the best cut of that order is found from its beginning on, one more row at a time.
    """
    rows = sorted(items, key=lambda item: item.token_ids)
    alike = [common_beginning(a.token_ids, b.token_ids) for a, b in pairwise(rows)]
    unlearned = [_first_learned(row) - 1 for row in rows]
    saved, began = [0] * (len(rows) + 1), list(range(-1, len(rows)))
    for last in range(len(rows)):
        saved[last + 1] = saved[last]  # alone
        began[last + 1] = last
        shared = unlearned[last]
        for first in range(last - 1, -1, -1):
            shared = min(shared, alike[first], unlearned[first])
            if shared < SHARED_AT_LEAST:
                break
            together = saved[first] + (last - first) * shared
            if together > saved[last + 1]:
                saved[last + 1], began[last + 1] = together, first
    groups: list[list[Features]] = []
    end = len(rows)
    while end:
        groups.append(rows[began[end] : end])
        end = began[end]
    order = {id(item): place for place, item in enumerate(items)}
    groups = [sorted(group, key=lambda item: order[id(item)]) for group in groups]
    return sorted(groups, key=lambda group: order[id(group[0])])


def _shared_length(group: Sequence[Features]) -> int:
    """Tokens that every row of the group begins with and of which none is learned; 0 where sharing does not pay.

    Each row keeps a token of its own before its first learned one: that token predicts it.
    """
    if len(group) < 2:
        return 0
    shared = min(_first_learned(item) - 1 for item in group)
    shared = min(shared, *(common_beginning(group[0].token_ids, item.token_ids) for item in group[1:]))
    return shared if shared >= SHARED_AT_LEAST else 0


def _first_learned(item: Features) -> int:
    return next((place for place, weight in enumerate(item.weights) if weight), len(item.weights))


Span = tuple[int, int]
"""First place, and the place after the last one."""


@dataclass(frozen=True)
class Documents:
    """Where documents lie, as plain numbers for the attention.

    `spans[d]` are places among the keys, `parents[d]` is the document that d continues, or -1; that one may continue
    another. The first `unread` places have keys and values alone: they are learned, and no token stands there.
    """

    spans: tuple[Span, ...]
    parents: tuple[int, ...]
    unread: int = 0

    @classmethod
    def of(cls, batch: Packed) -> Documents:
        """The documents of a batch."""
        offsets = batch.offsets.tolist()
        return cls(tuple(pairwise(offsets)), tuple(batch.parent.tolist()))

    def behind(self, length: int, *, unread: bool) -> Documents:
        """The same documents after a beginning of so many places, which all of them continue."""
        moved = ((first + length, last + length) for first, last in self.spans)
        parents = (-1, *(parent + 1 for parent in self.parents))
        return Documents(((0, length), *moved), parents, length if unread else 0)

    def one_each(self, keep_K: Tensor) -> bool:
        """Whether no document continues another, and each has exactly one of these positions, in their order."""
        if len(keep_K) != len(self.spans) or self.unread or any(parent >= 0 for parent in self.parents):
            return False
        return all(first <= place < last for (first, last), place in zip(self.spans, keep_K.tolist(), strict=True))

    def chains(self) -> Iterator[tuple[Span, tuple[Span, ...]]]:
        """The span of each document that holds tokens, and the spans of those before it, the first one first."""
        before: list[tuple[Span, ...]] = []
        for span, parent in zip(self.spans, self.parents, strict=True):
            before.append((*before[parent], self.spans[parent]) if parent >= 0 else ())
            if span[0] >= self.unread:
                yield span, before[-1]

    def longest_reach(self) -> int:
        """Most tokens that any token may look at."""
        return max((last - first + places(before) for (first, last), before in self.chains()), default=0)


def places(spans: Sequence[Span]) -> int:
    """How many places spans hold together."""
    return sum(last - first for first, last in spans)
