"""A teacher on this machine: a model that answers prompts in its own template, greedily."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tunesmith.core.errors import TunesmithError
from tunesmith.models.generate import generate
from tunesmith.models.load import Loaded
from tunesmith.models.sampling import GenerateSettings
from tunesmith.tasks.chat import ChatTask
from tunesmith.tasks.taught import Asked, Said

_AT_ONCE = 32
"""Prompts answered together, after which their answers are kept."""


class LocalTeacher:
    """Answers with the likeliest token each time.

    Args:
        sha256: of its weights.
        task: with the teacher's own tokenizer and template.
    """

    def __init__(self, loaded: Loaded, sha256: str, task: ChatTask, max_new_tokens: int) -> None:
        self._loaded = loaded
        self._task = task
        self._settings = GenerateSettings(max_new_tokens, end_token_ids=tuple(sorted(task.end_token_ids)))
        self.identity = f"{sha256} {task.template.sha256} {max_new_tokens}"

    def answers(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Said | None]]:
        """See `AnsweringTeacher`. A prompt that its template refuses, or that is too long, gets none."""
        prompts: dict[int, list[int]] = {}
        room = getattr(self._loaded.model.config.get_text_config(), "max_position_embeddings", 0) or 2**31
        for place, each in enumerate(asked):
            try:
                prompts[place] = self._task.prompt(each.messages, each.tools)
            except TunesmithError:
                prompts[place] = []
            if not 0 < len(prompts[place]) < room:
                del prompts[place]
                yield place, None
        # Prompts of like length are answered together.
        order = sorted(prompts, key=lambda place: len(prompts[place]))
        for first in range(0, len(order), _AT_ONCE):
            part = order[first : first + _AT_ONCE]
            completions = generate(
                self._loaded.model, self._task.tokenizer, [prompts[place] for place in part], self._settings
            )
            for place, found in zip(part, completions, strict=True):
                yield place, Said(found.text, found.finish_reason == "stop")
