"""A sentence of the plan: its code in the catalogue, the facts that fill it, and where its figure comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tunesmith.core.errors import Fact
from tunesmith.messages import Language, both, say

State = Literal["ready", "risky", "blocked"]


@dataclass(frozen=True)
class Remark:
    """Sentence `plan.<code>`. `source` is a publication or empty where the sentence claims nothing of its own."""

    code: str
    facts: Mapping[str, Fact] = field(default_factory=dict)
    source: str = ""

    def words(self) -> dict[Language, str]:
        """The sentence in every language."""
        return both(f"plan.{self.code}", **self.facts)

    def text(self) -> str:
        """The sentence in the language in force."""
        return say(f"plan.{self.code}", **self.facts)


@dataclass(frozen=True)
class Reason(Remark):
    """Why a run is ready, risky or blocked."""

    state: State = "ready"


@dataclass(frozen=True)
class Advice(Remark):
    """Something to consider before training; `rule` is the rule that says so."""

    rule: str = ""
