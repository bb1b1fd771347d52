"""Placeholders: the same value is the same placeholder wherever it stands, such as <PHONE_1>."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tunesmith.data.pii.checks import digits_of
from tunesmith.data.pii.find import Hit
from tunesmith.recipe.specs.clean import PiiType

_BARE_BEFORE = re.compile(r"[:,\[]\s*-?$")
_BARE_AFTER = re.compile(r"\s*[,}\]]")
_BY_DIGITS: frozenset[PiiType] = frozenset({"bank_card", "bank_account", "ssn", "qq"})


def canonical(kind: PiiType, value: str) -> str:
    """A value without the ways to write it: two that are equal here are the same number, mail or plate."""
    if kind == "phone":
        digits = digits_of(value)
        return digits[2:] if re.fullmatch(r"861[3-9]\d{9}", digits) else digits
    if kind in _BY_DIGITS and not re.search("[A-Za-z]", value):
        return digits_of(value)
    if kind == "secret":
        return value  # its letters count
    return (
        re.sub(r"[\s·•・\-]", "", value).upper() if kind in ("id_card", "plate", "bank_account") else value.casefold()
    )


class Masker:
    """Gives out placeholders, numbered by type in the order in which values are first met."""

    def __init__(self) -> None:
        self._placeholders: dict[tuple[PiiType, str], str] = {}
        self._values: dict[str, str] = {}
        self._given: Counter[PiiType] = Counter()

    @property
    def values(self) -> Mapping[str, str]:
        """What each placeholder stands for, as it was first written. Personal data: never to be logged."""
        return self._values

    def mask(self, text: str, hits: Sequence[Hit]) -> str:
        """The text with placeholders. A bare number of JSON becomes a text, so that JSON stays JSON."""
        parts: list[str] = []
        done = 0
        for hit in hits:
            start, placeholder = hit.start, self.placeholder(hit.type, text[hit.start : hit.end])
            if _is_bare(text, hit):
                start -= text[start - 1] == "-"
                placeholder = f'"{placeholder}"'
            parts += [text[done:start], placeholder]
            done = hit.end
        return "".join([*parts, text[done:]])

    def placeholder(self, kind: PiiType, value: str) -> str:
        """What stands for a value; one that was not met before gets the next number of its type."""
        key = (kind, canonical(kind, value))
        if key not in self._placeholders:
            self._given[kind] += 1
            self._placeholders[key] = f"<{kind.upper()}_{self._given[kind]}>"
            self._values[self._placeholders[key]] = value
        return self._placeholders[key]

    def knowing(self, values: Iterable[tuple[PiiType, str]]) -> Masker:
        """One that has the placeholders of these values alone, which this one has met: little to send elsewhere."""
        some = Masker()
        for kind, value in values:
            key = (kind, canonical(kind, value))
            some._placeholders[key] = self._placeholders[key]
        return some


def _is_bare(text: str, hit: Hit) -> bool:
    """Whether a value is a number that stands in JSON without quotes."""
    if not text[hit.start : hit.end].isdecimal() or not _BARE_AFTER.match(text, hit.end):
        return False
    before = _BARE_BEFORE.search(text, max(0, hit.start - 40), hit.start)
    if before is None:
        return False
    in_json = text.lstrip()[:1] in ("{", "[")
    return in_json or bool(re.search(r'"\s*:\s*-?$', text[max(0, hit.start - 40) : hit.start]))
