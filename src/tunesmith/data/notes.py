"""What is worth knowing about rows and is no error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tunesmith.core.errors import Fact


@dataclass(frozen=True)
class Note:
    """A sentence of the catalogue and its facts."""

    code: str
    facts: Mapping[str, Fact] = field(default_factory=dict)
