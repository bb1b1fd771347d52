"""The row ledger: every row that was read has exactly one fate, and the sums are checked.

    read + made = kept + merged + dropped        (masked and truncated rows are kept, and say so)

A line of `ledger.jsonl` holds a row's number, its source and index, its fate and the reason, and how often which rule
changed its text; never its content.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import write_atomic

Fate = Literal["kept", "masked", "truncated", "merged", "dropped"]
STILL_USED: frozenset[str] = frozenset({"kept", "masked", "truncated"})


@dataclass(frozen=True)
class Entry:
    """A row's fate. `amount` counts what was cut or masked (tokens or characters, the reason says which).

    A row that no file holds but that was made here has a `parent`: the number of the row that it was made from, whose
    source and index it shares.
    """

    row: int
    source: str
    index: int
    fate: Fate = "kept"
    reason: str = ""
    amount: int = 0
    parent: int | None = None
    other: int | None = None
    """The second row that it was made from, where there are two."""
    changes: Mapping[str, int] = field(default_factory=dict)
    """Rules that changed the row's text, and at how many places (1 where nobody counts them)."""

    def facts(self) -> dict[str, object]:
        """All that it says, without what only made or changed rows have."""
        known = {"parent": self.parent is not None, "other": self.other is not None, "changes": bool(self.changes)}
        absent = {name for name, there in known.items() if not there}
        return {name: value for name, value in vars(self).items() if name not in absent}


class Ledger:
    """Collects rows as they are read and their fates as they are decided."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries: list[Entry] = list(entries)

    def __len__(self) -> int:
        return len(self._entries)

    def read(self, source: str, count: int) -> range:
        """Enter `count` rows of a source, all kept so far; returns their row numbers."""
        first = len(self._entries)
        self._entries.extend(Entry(first + index, source, index) for index in range(count))
        return range(first, first + count)

    def make(self, parents: Iterable[int], reason: str, others: Iterable[int | None] | None = None) -> range:
        """Enter rows that were made, all kept so far, each from its parent; returns their row numbers.

        Args:
            others: the second row that each was made from, or None.
        """
        first, listed = len(self._entries), list(parents)
        for row, (parent, other) in enumerate(zip(listed, others or [None] * len(listed), strict=True), first):
            origin = self._entries[parent]
            self._entries.append(Entry(row, origin.source, origin.index, reason=reason, parent=parent, other=other))
        return range(first, len(self._entries))

    def decide(self, rows: Iterable[int], fate: Fate, reason: str, amounts: Iterable[int] | None = None) -> None:
        """Give rows a fate. A row that was dropped or merged cannot get another. Errors: core.ledger_second_fate."""
        listed = list(rows)
        counts = [0] * len(listed) if amounts is None else list(amounts)
        for row, amount in zip(listed, counts, strict=True):
            entry = self._entries[row]
            if entry.fate not in STILL_USED:
                raise TunesmithError("core.ledger_second_fate", row=row, first=entry.reason, second=reason)
            self._entries[row] = replace(entry, fate=fate, reason=reason, amount=amount)

    def change(self, rows: Iterable[int], rule: str, places: Iterable[int] | None = None) -> None:
        """Note that a rule changed the text of rows, each at so many places."""
        listed = list(rows)
        counts = [1] * len(listed) if places is None else list(places)
        for row, count in zip(listed, counts, strict=True):
            entry = self._entries[row]
            changes = {**entry.changes, rule: entry.changes.get(rule, 0) + count}
            self._entries[row] = replace(entry, changes=changes)

    def entries(self) -> tuple[Entry, ...]:
        """All entries in the order of their row numbers."""
        return tuple(self._entries)

    def kept_rows(self) -> list[int]:
        """Numbers of the rows that are still used."""
        return [entry.row for entry in self._entries if entry.fate in STILL_USED]

    def totals(self) -> Mapping[str, int]:
        """Rows by fate and reason, such as {"kept": 90, "dropped: exact duplicate": 10}."""
        labels = (f"{entry.fate}: {entry.reason}" if entry.reason else entry.fate for entry in self._entries)
        return dict(sorted(Counter(labels).items()))

    def sums(self) -> dict[str, int]:
        """Rows that were read and made, and those of both that were merged or dropped."""
        fates = Counter(entry.fate for entry in self._entries)
        made = sum(entry.parent is not None for entry in self._entries)
        return {"read": len(self) - made, "made": made, "merged": fates["merged"], "dropped": fates["dropped"]}

    def changed(self) -> Mapping[str, tuple[int, int]]:
        """(rows, places) that each rule changed, rows that went later included."""
        rows: Counter[str] = Counter()
        places: Counter[str] = Counter()
        for entry in self._entries:
            rows.update(entry.changes.keys())
            places.update(entry.changes)
        return {rule: (rows[rule], places[rule]) for rule in sorted(rows)}

    def check(self, used: Iterable[int]) -> None:
        """The rows that go on are exactly the rows the ledger keeps. Errors: core.ledger_unbalanced."""
        used_rows = sorted(used)
        kept = self.kept_rows()
        if used_rows != kept:
            missing = len(set(kept) - set(used_rows))
            extra = len(used_rows) - len(kept) + missing
            raise TunesmithError("core.ledger_unbalanced", read=len(self), kept=len(kept), missing=missing, extra=extra)

    def write(self, path: Path) -> str:
        """Write one JSON line a row, durably; returns the SHA-256."""
        lines = (json.dumps(entry.facts(), ensure_ascii=False) for entry in self._entries)
        return write_atomic(path, "".join(line + "\n" for line in lines))

    @classmethod
    def load(cls, path: Path) -> Ledger:
        """Read a ledger that `write` wrote. Errors: core.missing_file, core.broken_json."""
        if not path.exists():
            raise TunesmithError("core.missing_file", path=str(path))
        try:
            # Split at line feeds alone: a source's name may hold other characters that end a line elsewhere.
            return cls(Entry(**json.loads(line)) for line in path.read_bytes().split(b"\n") if line)
        except (TypeError, ValueError) as error:
            raise TunesmithError("core.broken_json", path=str(path), reason=str(error)) from error
