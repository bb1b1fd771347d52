"""The one exception that a user may meet: a code, and the facts that its sentence needs.

The sentences (cause and next step, in both languages) live in `tunesmith.messages`; this file only carries the
code, so that the floor of the house needs nothing above it.
"""

from __future__ import annotations

from functools import partial

from tunesmith.core.secrets import without_secrets

Fact = str | int | float | bool


class TunesmithError(Exception):
    """Something the user can mend.

    Args:
        code: `<room>.<name>`, a key of the message catalogue; `tunesmith explain CODE` shows it.
        facts: the values that fill the placeholders of the sentence; secrets in them are hidden here, so that what a
            library said may be handed on.
    """

    def __init__(self, code: str, /, **facts: Fact) -> None:
        self.code = code
        self.facts: dict[str, Fact] = {
            name: without_secrets(value) if isinstance(value, str) else value for name, value in facts.items()
        }
        super().__init__(code, self.facts)

    def __reduce__(self) -> tuple[partial[TunesmithError], tuple[()]]:
        """As it goes from one process to another: with its facts, which are no arguments by place."""
        return partial(type(self), self.code, **self.facts), ()

    def __str__(self) -> str:
        facts = ", ".join(f"{name}={value}" for name, value in self.facts.items())
        return f"{self.code} ({facts})" if facts else self.code
