"""What a model's help looks like from here: the life cycle hands somebody in who answers prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Generator(Protocol):
    """Answers prompts, the same prompt the same way; where it has no whole answer, None stands in its place."""

    def generate(self, prompts: Sequence[str]) -> Sequence[str | None]:
        """An answer for each prompt, in their order."""
