"""Is it time to tune? Ready, risky or blocked, each with its reasons.

The limits come from practice: hundreds to thousands of labelled rows usually do, a thousand good ones beat ten
thousand noisy ones (Zhou et al., LIMA, arXiv 2305.11206), full tuning wants more than 100,000, and what a prompt or
retrieval solves needs no tuning (Ovadia et al., Fine-Tuning or Retrieval, arXiv 2312.05934).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tunesmith.core.errors import Fact
from tunesmith.messages import Language, both
from tunesmith.recipe.specs.goal import GoalSpec

Level = Literal["good", "note", "risky", "blocked"]
State = Literal["ready", "risky", "blocked"]

FEW_ROWS = 100
FULL_TUNING_ROWS = 100_000
FEW_TEST_ROWS = 100
MEMORY_ROOM = 0.85
"""Above this share of the free memory the rest of the machine has too little."""
MEMORY_DOUBT = 1.4
"""A forecast of memory may be this far off, so a run is refused only from there on."""
MANY_DUPLICATES = 0.2

_FREE = ("apache", "mit", "bsd", "cc0", "cc-by-4", "cc-by-3", "unlicense", "isc", "openrail")
_NOT_COMMERCIAL = ("-nc", "non-commercial", "noncommercial", "research")


@dataclass(frozen=True)
class ReadinessFacts:
    """What is known before training. None means unknown; memory in bytes.

    `sources_there` says whether every source of rows could be read again for a later tuning.
    """

    goal: GoalSpec
    method: str
    train_rows: int
    validation_rows: int
    test_rows: int
    base_licence: str
    data_licences: tuple[str, ...] = ()
    duplicate_share: float | None = None
    memory_needed: float | None = None
    memory_free: float | None = None
    needs_future_tuning: bool | None = None
    sources_there: bool | None = None


@dataclass(frozen=True)
class Finding:
    """One reason with its facts; `code` is a sentence of messages/plan.toml."""

    level: Level
    code: str
    facts: Mapping[str, Fact]

    def words(self) -> Mapping[Language, str]:
        """The sentence in every language."""
        return both(f"plan.{self.code}", **self.facts)


@dataclass(frozen=True)
class Readiness:
    """The state and every finding, the gravest first."""

    state: State
    findings: tuple[Finding, ...]


_STATES: tuple[State, ...] = ("ready", "risky", "blocked")
_GRAVITY: Mapping[Level, int] = {"blocked": 0, "risky": 1, "note": 2, "good": 3}


def assess(facts: ReadinessFacts) -> Readiness:
    """Hold the facts against every rule."""
    rules = (_goal, _tried, _rows, _splits, _memory, _licences, _future)
    findings = [finding for rule in rules for finding in rule(facts)]
    levels = {finding.level for finding in findings}
    state: State = "blocked" if "blocked" in levels else ("risky" if "risky" in levels else "ready")
    return Readiness(state, tuple(sorted(findings, key=lambda finding: _GRAVITY[finding.level])))


def joined(found: Sequence[Readiness]) -> Readiness:
    """The readiness of several stages: the worst state, and every finding once."""
    findings: list[Finding] = []
    for each in found:
        findings += [finding for finding in each.findings if finding not in findings]
    worst = max((each.state for each in found), key=_STATES.index)
    return Readiness(worst, tuple(sorted(findings, key=lambda finding: _GRAVITY[finding.level])))


def _found(level: Level, code: str, **facts: Fact) -> Finding:
    return Finding(level, code, facts)


def _goal(facts: ReadinessFacts) -> Iterator[Finding]:
    if not facts.goal.problem:
        yield _found("note", "no_problem")
    if not facts.goal.need:
        yield _found("note", "no_need")
    if facts.goal.target is None:
        yield _found("risky", "no_target")
    if not facts.goal.business_metric:
        yield _found("note", "no_business_metric")


def _tried(facts: ReadinessFacts) -> Iterator[Finding]:
    if not facts.goal.tried:
        yield _found("risky", "nothing_tried")
    elif "rag" not in facts.goal.tried and "domain" in facts.goal.need:
        yield _found("note", "no_rag")
    else:
        yield _found("good", "tried")


def _rows(facts: ReadinessFacts) -> Iterator[Finding]:
    if facts.train_rows == 0:
        yield _found("blocked", "no_rows")
    elif facts.train_rows < FEW_ROWS:
        yield _found("risky", "few_rows", rows=facts.train_rows, least=FEW_ROWS)
    else:
        yield _found("good", "enough_rows", rows=facts.train_rows)
    if facts.method == "full" and 0 < facts.train_rows <= FULL_TUNING_ROWS:
        yield _found("risky", "full_wants_more", rows=facts.train_rows, least=FULL_TUNING_ROWS)
    if facts.duplicate_share is not None and facts.duplicate_share > MANY_DUPLICATES:
        yield _found("note", "many_duplicates", share=f"{100 * facts.duplicate_share:.0f}%")


def _splits(facts: ReadinessFacts) -> Iterator[Finding]:
    if facts.train_rows == 0:
        return
    if facts.test_rows == 0:
        yield _found("blocked", "no_test")
    elif facts.test_rows < FEW_TEST_ROWS:
        half = 196 * (0.25 / facts.test_rows) ** 0.5  # widest half of a 95 % interval of a share, in points
        yield _found("risky", "few_test_rows", rows=facts.test_rows, points=f"{half:.0f}")
    if facts.validation_rows == 0:
        yield _found("risky", "no_validation")


def _memory(facts: ReadinessFacts) -> Iterator[Finding]:
    if facts.memory_needed is None or facts.memory_free is None:
        return
    amounts = {"needed": f"{facts.memory_needed / 1e9:.1f}", "free": f"{facts.memory_free / 1e9:.1f}"}
    if facts.memory_needed > MEMORY_DOUBT * facts.memory_free:
        yield _found("blocked", "memory_short", **amounts)
    elif facts.memory_needed > MEMORY_ROOM * facts.memory_free:
        yield _found("risky", "memory_tight", **amounts)
    else:
        yield _found("good", "memory_enough", **amounts)


def _licences(facts: ReadinessFacts) -> Iterator[Finding]:
    licence = facts.base_licence
    if not licence:
        yield _found("risky", "base_licence_unknown")
    elif _says(licence, _NOT_COMMERCIAL):
        yield _found("risky", "base_licence_not_commercial", licence=licence)
    elif not _says(licence, _FREE):
        yield _found("note", "base_licence_own_terms", licence=licence)
    else:
        yield _found("good", "base_licence_free", licence=licence)
    unknown = sum(not each for each in facts.data_licences)
    if unknown:
        yield _found("note", "data_licence_unknown", sources=unknown)
    for each in sorted({each for each in facts.data_licences if _says(each, _NOT_COMMERCIAL)}):
        yield _found("risky", "data_licence_not_commercial", licence=each)


def _says(licence: str, words: tuple[str, ...]) -> bool:
    return any(word in licence.lower() for word in words)


def _future(facts: ReadinessFacts) -> Iterator[Finding]:
    if facts.needs_future_tuning is False:
        yield _found("note", "no_retuning")
    elif facts.sources_there is False:
        yield _found("risky", "retuning_impossible")
    elif facts.sources_there:
        yield _found("good", "retuning_possible")
