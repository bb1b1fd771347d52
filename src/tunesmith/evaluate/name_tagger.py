"""Names of people in running texts, found by a model that gives classes to tokens.

Which of its labels mean people is told by their names: PER, B-PERSON, I-per, name, 人名 and the like. Texts longer than
the model reads are looked at in windows that overlap; a word is decided where it has more words on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import SILENT, Emitter
from tunesmith.core.types import Message
from tunesmith.data.formats.labelled import word_places
from tunesmith.evaluate.answers import Question
from tunesmith.evaluate.entities import entities_of
from tunesmith.evaluate.labels import label_scores
from tunesmith.models.heads import ClassPolicy, Head, stated_head
from tunesmith.tasks.classes import OUTSIDE, ClassTask

PEOPLE = frozenset({
    "per", "pers", "person", "persons", "people", "human", "name", "names", "pername", "personname", "nr",
    "givenname", "firstname", "middlename", "lastname", "surname", "familyname", "fullname",
    "人名", "姓名", "人物", "名字",
})  # fmt: skip
"""What labels of people are called, without marks and capitals."""

_MARK = re.compile(r"([BIESLUM])[-_](.+)", re.DOTALL)
_MARKS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}
"""BIO, BIOES, BMES and BILOU: what a mark is called in BIOES."""
_OVERLAP = 32
"""Words that two windows have in common, at most a quarter of a window."""
_MARKS_AROUND = 4
"""Pieces that a tokenizer may put around a row."""
_TEXTS_AT_ONCE = 512
"""Texts whose scores are held at a time."""


def names_head(folder: Path) -> Head:
    """The head of a model that finds people.

    Errors: evaluate.no_tagger for a folder without a model that gives classes to tokens, evaluate.tagger_without_people
    where none of its labels means people; those of `stated_head`.
    """
    head = stated_head(folder)
    if head is None or head.task != "token_class":
        raise TunesmithError("evaluate.no_tagger", path=str(folder))
    if not any(_tag(label) != OUTSIDE for label in head.labels):
        raise TunesmithError("evaluate.tagger_without_people", path=str(folder), labels=", ".join(head.labels))
    return head


def _tag(label: str) -> str:
    """A label as a tag of people; `O` for all others. Without a mark it goes on where it stood before."""
    found = _MARK.fullmatch(label)
    mark, name = (_MARKS[found[1]], found[2]) if found else ("I", label)
    return f"{mark}-name" if re.sub(r"[\W_]", "", name).casefold() in PEOPLE else OUTSIDE


@dataclass(frozen=True)
class _Window:
    """Words first..end of a text are read, those from `decided_from` to `decided_to` decided."""

    text: int
    first: int
    end: int
    decided_from: int
    decided_to: int


class NameTagger:
    """Texts in, the places of people's names out: what the data room calls a Tagger."""

    def __init__(self, policy: ClassPolicy, task: ClassTask, emitter: Emitter = SILENT) -> None:
        self._policy = policy.eval()
        self._task = task
        self._emitter = emitter

    def __call__(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """(start, end) of every name in each of the texts."""
        found: list[list[tuple[int, int]]] = []
        for first in range(0, len(texts), _TEXTS_AT_ONCE):
            found += self._names(texts[first : first + _TEXTS_AT_ONCE])
            self._emitter.emit("progress", what="names", done=len(found), total=len(texts))
        return found

    def _names(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        places = [word_places(text) for text in texts]
        words = [[text[start:end] for start, end in found] for text, found in zip(texts, places, strict=True)]
        windows = [window for number, each in enumerate(words) if each for window in self._windows(number, each)]
        asked = [self._question(place, words[each.text][each.first : each.end]) for place, each in enumerate(windows)]
        tags = [[OUTSIDE] * len(each) for each in words]
        scores = label_scores(self._policy, self._task, asked) if asked else []
        for window, question, scores_KC in zip(windows, asked, scores, strict=True):
            labels = self._task.judge(scores_KC, question).labels
            for word in range(window.decided_from, window.decided_to):
                tags[window.text][word] = _tag(labels[word - window.first])
        return [
            [(found[first][0], found[end - 1][1]) for _, first, end in entities_of(said)]
            for found, said in zip(places, tags, strict=True)
        ]

    @staticmethod
    def _question(row: int, words: Sequence[str]) -> Question:
        return Question(row, (Message("user", " ".join(words)),), "", "", tuple(words))

    def _windows(self, text: int, words: Sequence[str]) -> Iterator[_Window]:
        """As many words as the model has places for; what two windows share is decided half by either."""
        sizes = self._pieces(words)
        room = max(1, self._task.max_length - _MARKS_AROUND)
        first = decided = 0
        while True:
            end, held = first, 0
            while end < len(words) and (end == first or held + sizes[end] <= room):
                held += sizes[end]
                end += 1
            if end == len(words):
                yield _Window(text, first, end, decided, end)
                return
            shared = min(_OVERLAP, (end - first) // 4)
            yield _Window(text, first, end, decided, end - shared // 2)
            first, decided = end - shared, end - shared // 2

    def _pieces(self, words: Sequence[str]) -> list[int]:
        """Pieces of each word."""
        read = self._task.tokenizer(list(words), is_split_into_words=True, add_special_tokens=False, verbose=False)
        sizes = [0] * len(words)
        for word in read.word_ids():
            if word is not None:
                sizes[word] += 1
        return sizes
