"""Several tasks with classes at once: a row belongs to the task that its source is named after, and asks its head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedTokenizerBase

from tunesmith.core.types import Example
from tunesmith.models.heads import Head
from tunesmith.models.packed import Features, Packed, pack
from tunesmith.models.side_by_side import NOT_ASKED, spans
from tunesmith.tasks.base import Encoded
from tunesmith.tasks.classes import ClassTask


class SideBySideTask(ClassTask):
    """The tasks of a model with heads side by side.

    Args:
        head: all of them.
        parts: each by its name, in the order of the heads.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        head: Head,
        max_length: int,
        is_encoder: bool,
        parts: Mapping[str, ClassTask],
    ) -> None:
        super().__init__(tokenizer, head, max_length, is_encoder)
        self.parts = parts
        self._spans = spans(head)
        self._places = {name: place for place, name in enumerate(parts)}

    def encode(self, example: Example) -> Encoded:
        """As its task encodes it; its classes are numbered among those of all tasks."""
        place = self._places[example.origin.source]
        encoded, first = self.parts[example.origin.source].encode(example), self._spans[place].start
        classes = tuple(tuple(first + each for each in stated) for stated in encoded.features.classes)
        return replace(encoded, features=replace(encoded.features, classes=classes, head=place))

    def unusable(self, example: Example) -> str:
        """Why its task cannot learn a row."""
        return self.parts[example.origin.source].unusable(example)

    def pack(self, items: Sequence[Features]) -> Packed:
        """The batch of these rows. Its target [K, C] is 0 or 1 for the classes of the task that a row asks, and
        `NOT_ASKED` for those of the others.

        Rows with vectors of their tasks do not begin alike, whatever their tokens are.
        """
        share = not self.is_encoder and not self.head.embeddings
        batch = pack(items, share=share, several_of=len(self.head.labels))
        head_of_row = {item.row: item.head for item in items} | {-1: 0}
        head_D = torch.tensor([head_of_row[row] for row in batch.row.tolist()], dtype=torch.long)
        own_HC = torch.zeros(len(self._spans), len(self.head.labels), dtype=torch.bool)
        for place, span in enumerate(self._spans):
            own_HC[place, span] = True
        own_KC = own_HC[head_D[batch.document_of_kept()]]
        return replace(batch, target=batch.target.masked_fill(~own_KC, NOT_ASKED))
