"""What a build tells at its end, gathered from all parts: numbers alone, no word of any row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypedDict, cast

from tunesmith.core.errors import Fact
from tunesmith.core.files import read_manifest
from tunesmith.data.content import Listed
from tunesmith.data.pii.apply import Finding, PersonalData
from tunesmith.data.tidy import Cleaner
from tunesmith.recipe.specs.clean import PiiSpec

_SPLIT = "train"
"""What all sources are given for: the other splits are cut from them."""


@dataclass(frozen=True)
class CorpusReport:
    """What a build did: rows by fate and reason, rows by split, bytes read, the data version, and seconds of each step.

    Beside them rows and places that each rule changed, personal data by source and type, and rows that hold a word of
    a list.
    """

    fates: dict[str, int]
    splits: dict[str, int]
    bytes: int
    changed: dict[str, dict[str, int]] = field(default_factory=dict)
    personal: list[dict[str, Fact]] = field(default_factory=list)
    listed: list[dict[str, Fact]] = field(default_factory=list)
    version: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


class _Found(TypedDict):
    """What the manifest of a part states."""

    personal: list[dict[str, Fact]]
    listed: list[dict[str, Fact]]


def facts_of(cleaner: Cleaner) -> dict[str, object]:
    """What one piece held, for the manifest of its part."""
    personal = cleaner.personal.findings() if cleaner.personal else []
    return {"personal": [asdict(each) for each in personal], "listed": [asdict(each) for each in cleaner.listed]}


def personal_of(parts: Sequence[Path], spec: PiiSpec | None) -> PersonalData | None:
    """What all parts held of personal data; nothing where nobody looked."""
    if spec is None:
        return None
    found = PersonalData(spec)
    for facts in _facts(parts):
        found.add(Finding(**each) for each in facts["personal"])  # type: ignore[arg-type]  # as `facts_of` wrote it
    return found


def listed_of(parts: Sequence[Path]) -> list[Listed]:
    """Rows of all parts that hold a word of a list, by list."""
    rows: Counter[tuple[str, str]] = Counter()
    for facts in _facts(parts):
        for each in facts["listed"]:
            rows[str(each["path"]), str(each["action"])] += int(str(each["rows"]))
    return [Listed(path, action, _SPLIT, count) for (path, action), count in rows.items()]


def _facts(parts: Iterable[Path]) -> Iterable[_Found]:
    return (cast(_Found, read_manifest(part)) for part in parts)


def changes(rows: Mapping[str, int], places: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Rows and places by rule, as the report states them."""
    return {rule: {"rows": rows[rule], "places": places[rule]} for rule in sorted(rows)}
