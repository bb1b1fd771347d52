"""What one rendering of a template may use: time of the processor, characters, and the size of every value.

Sizes are counted as a value would be written, each part as often as it is referred to.
"""

from __future__ import annotations

import time
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sized, ValuesView
from contextvars import ContextVar
from itertools import chain

from jinja2.runtime import Undefined

from tunesmith.messages import say

SECONDS = 0.1
"""Processor time of one rendering, and as much again for each 100,000 characters that it was given."""

CHARACTERS = 1_000_000
"""Characters that a template may write beyond eight times what it was given."""

_GIVEN = 8
_MADE = 16
"""So many times the longest text may pass through all operations of one rendering together."""

_ITEM = 8
"""Characters that an item of a list counts for."""

MOST_BITS = 1024
"""Of a whole number."""

_LONGEST_WORD = 128
_READABLE = (Mapping, list, tuple, KeysView, ValuesView, ItemsView)


class CutError(Exception):
    """A limit is reached; the text says which, in the user's language."""


class SlowError(CutError):
    """The limit of time is reached."""


class Budget:
    """What one rendering has used, and what it may."""

    def __init__(self, given: Mapping[str, object]) -> None:
        self._sizes: dict[int, tuple[object, int]] = {}
        self.longest = CHARACTERS
        self._left = self.longest
        characters = self.size(given, limited=False)
        self.longest = CHARACTERS + _GIVEN * characters
        self._left = _MADE * self.longest
        self._until = time.thread_time() + SECONDS * (1 + characters / 100_000)
        self._operations = 0

    def spend(self, characters: int) -> None:
        """Count an operation that reads or makes so many characters or items."""
        self._left -= max(0, characters)
        if self._left < 0 or characters > self.longest:
            raise CutError(say("tasks.reason_size", characters=self.longest))
        self._operations += 1
        if (self._operations % 16 == 0 or characters > 10_000) and time.thread_time() > self._until:
            raise SlowError(say("tasks.reason_time", milliseconds=round(SECONDS * 1000)))

    def size(self, value: object, *, limited: bool = True) -> int:
        """Characters and items of a value, each counted as often as it would be written."""
        if isinstance(value, str):
            return len(value)
        if isinstance(value, int):
            return 1 + value.bit_length() // 3
        if value is None or isinstance(value, float | range | Undefined):
            return 1
        if isinstance(value, Mapping):
            return self._size_of_all(value, chain(value.keys(), value.values()), limited)
        if isinstance(value, list | tuple | KeysView | ValuesView | ItemsView):
            return self._size_of_all(value, value, limited)
        raise CutError(say("tasks.reason_no_text", kind=type(value).__name__))

    def reading(self, value: object) -> int:
        """What it takes to go through a value: its size, the length of a range, 1 for what is no text."""
        if isinstance(value, str | range):
            return len(value)
        if value is None or isinstance(value, int | float | Undefined):
            return 1
        return self.size(value) if isinstance(value, _READABLE) else 1

    def _size_of_all(self, value: object, parts: Iterable[object], limited: bool) -> int:
        known = self._sizes.get(id(value))
        if known is not None:
            return known[1]
        total = 1
        for part in parts:
            total += 1 + self.size(part, limited=limited)
            if limited and total > 2 * self.longest:
                raise CutError(say("tasks.reason_size", characters=self.longest))
        self._sizes[id(value)] = (value, total)  # the value is kept too, so that its number is not given out again
        return total

    def made(self, value: object) -> object:
        """Count what an operation has made, and give it back."""
        if isinstance(value, str):
            self.spend(len(value))
        elif isinstance(value, list | tuple | dict):
            self.spend(_ITEM * len(value))
            self.size(value)
        elif isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise CutError(say("tasks.reason_size", characters=MOST_BITS))
        else:
            self.spend(1)
        return value


BUDGET: ContextVar[Budget] = ContextVar("budget")
"""Of the rendering under way in this thread."""


def take(value: object) -> object:
    """Let a filter go through a value: one that it could not turn into text within bounds is refused."""
    budget = BUDGET.get()
    if isinstance(value, str):
        budget.spend(len(value))
    elif isinstance(value, Iterator):
        return _counted(value)
    else:
        budget.size(value)
        budget.spend(len(value) if isinstance(value, Sized) else 1)
    return value


def read(value: object) -> object:
    """Let an operation compare a value with others, to its last character."""
    if not isinstance(value, str) and isinstance(value, Iterator):
        return _counted(value)
    budget = BUDGET.get()
    budget.spend(budget.reading(value))
    return value


def _counted(values: Iterator[object]) -> Iterator[object]:
    budget = BUDGET.get()
    for value in values:
        budget.spend(budget.reading(value))
        yield value


def refuse_long(words: Iterable[object]) -> None:
    """Refuse a long text where one is split into names or searched for again at every place."""
    if any(isinstance(each, str) and len(each) > _LONGEST_WORD for each in words):
        raise CutError(say("tasks.reason_size", characters=_LONGEST_WORD))
