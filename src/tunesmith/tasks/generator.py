"""A model that answers plain prompts for the data room; every answer is kept, so that nothing is asked twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from tunesmith.core.files import append_durably
from tunesmith.core.types import Message
from tunesmith.tasks.taught import AnsweringTeacher, Asked, Said, answer_key, read_answers


class KeptGenerator:
    """Answers prompts through somebody who answers conversations.

    Args:
        make: makes that somebody when the first prompt comes.
        file: where answers are kept, a JSON object a line.
        seen: called with the number of answers that are there, and of all.
    """

    def __init__(
        self,
        make: Callable[[], AnsweringTeacher],
        file: Path,
        seen: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._make = make
        self._file = file
        self._seen = seen

    @cached_property
    def _teacher(self) -> AnsweringTeacher:
        return self._make()

    def generate(self, prompts: Sequence[str]) -> list[str | None]:
        """See `Generator`. An answer that was cut at its longest is none. Errors: those of the one who answers."""
        asked = [Asked((Message("user", prompt),), "") for prompt in prompts]
        keys = [answer_key(self._teacher.identity, each) for each in asked]
        known = read_answers(self._file)
        missing = {key: each for key, each in zip(keys, asked, strict=True) if key not in known}
        listed = list(missing)
        done = sum(key in known for key in keys)
        for place, said in self._teacher.answers(list(missing.values())):
            if said is not None:
                known[listed[place]] = said
                line = json.dumps({"key": listed[place], **asdict(said)}, ensure_ascii=False)
                append_durably(self._file, f"{line}\n")
            done += 1
            self._seen(min(done, len(keys)), len(keys))
        return [_whole(known.get(key)) for key in keys]


def _whole(said: Said | None) -> str | None:
    return said.text if said is not None and said.finished else None
