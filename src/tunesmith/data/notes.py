"""What is worth knowing about rows and is no error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tunesmith.core.errors import Fact
from tunesmith.core.secrets import without_secrets

_EVERY_RUN = {"data.read_file", "data.merged"}


@dataclass(frozen=True)
class Note:
    """A sentence of the catalogue and its facts, without secrets."""

    code: str
    facts: Mapping[str, Fact] = field(default_factory=dict)

    @property
    def is_news(self) -> bool:
        """Whether a run says it on the way: what every run does, and rules that met no row, stand in its card alone."""
        return self.code not in _EVERY_RUN and self.facts.get("rows") != 0

    def __post_init__(self) -> None:
        said = {name: without_secrets(fact) if isinstance(fact, str) else fact for name, fact in self.facts.items()}
        object.__setattr__(self, "facts", said)
