"""Texts that have a class, or several. An encoder answers at its class token, which comes first; a decoder at the last
token, which has seen the whole text."""

from __future__ import annotations

import json
from collections.abc import Sequence

from torch import Tensor

from tunesmith.core.types import Example
from tunesmith.models.packed import Features
from tunesmith.tasks.base import Encoded
from tunesmith.tasks.classes import Asked, ClassTask, Judged


class TextClassTask(ClassTask):
    """One place of answer a row."""

    def encode(self, example: Example) -> Encoded:
        """The text's tokens as the tokenizer gives them, with its own marks around; the class at one of them."""
        return self._encoded(example.row, example.text, tuple(self._number[label] for label in example.labels))

    def read(self, asked: Asked) -> Features:
        """The text, its place of answer marked."""
        return self._encoded(asked.row, asked.text, (0,)).features

    def is_cut(self, asked: Asked) -> bool:
        """Whether the text is longer than the limit."""
        return self._encoded(asked.row, asked.text, (0,)).cut_tokens > 0

    def _encoded(self, row: int, text: str, classes: tuple[int, ...]) -> Encoded:
        ids: list[int] = self.tokenizer(text, truncation=True, max_length=self.max_length)["input_ids"]
        cut = 0
        if len(ids) == self.max_length:
            cut = len(self.tokenizer(text, verbose=False)["input_ids"]) - len(ids)
        place = 0 if self.is_encoder else len(ids) - 1
        weights = tuple(float(each == place) for each in range(len(ids)))
        return Encoded(Features(row, tuple(ids), weights, (classes,) if ids else ()), cut)

    def answer(self, scores_KC: Tensor, asked: Asked) -> str:
        """The label of the highest score; where there may be several, those that are more likely than not."""
        labels = self.judge(scores_KC, asked).labels
        return in_words(labels) if self.head.several else labels[0]

    def judge(self, scores_KC: Tensor, asked: Asked) -> Judged:
        """As `answer`: classes that exclude each other share one probability, others have one each."""
        scores_C = scores_KC[0]
        if self.head.several:
            shares_C, chosen = scores_C.sigmoid(), (scores_C > 0).nonzero()[:, 0].tolist()
        else:
            shares_C, chosen = scores_C.softmax(-1), [int(scores_C.argmax())]
        return Judged(
            tuple(self.head.labels[place] for place in chosen), tuple(float(shares_C[place]) for place in chosen)
        )

    def unusable(self, example: Example) -> str:
        """A row has one label unless several are allowed."""
        return "several_labels" if not self.head.several and len(example.labels) != 1 else ""


def in_words(labels: Sequence[str]) -> str:
    """Several labels as one text: a JSON list in order."""
    return json.dumps(sorted(labels), ensure_ascii=False)
