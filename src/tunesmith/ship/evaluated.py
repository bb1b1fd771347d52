"""The model as it was evaluated, and what it would say: the yardstick of the parity gate.

Shape letters: K positions of an answer, V vocabulary.

Everything here is float32. The evaluated model keeps its change apart (PEFT's own layers compute a LoRA), so a merge
is judged by other code than the one that made it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from tunesmith.adapt.saved import put_on
from tunesmith.core.errors import TunesmithError
from tunesmith.core.types import Message
from tunesmith.models.beginning import keys_before
from tunesmith.models.heads import Head
from tunesmith.models.load import BaseFolder, load_model, load_with_head
from tunesmith.ship.merge import NOTHING_INSTEAD
from tunesmith.tasks.chat_template import ChatTemplate

LONGEST_ANSWER = 96
"""Tokens of one answer that are compared; longer answers are compared up to here."""


@dataclass(frozen=True)
class Turn:
    """An answer in a chat: the token ids before it and its own, the end token included when it is in reach."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def chat_ids(tokenizer: PreTrainedTokenizerFast, chats: Sequence[Sequence[Message]]) -> list[list[int]]:
    """Token ids of whole chats, and of each chat as a question where its last turn is an answer."""
    template = ChatTemplate(tokenizer)
    texts: list[str] = []
    for chat in chats:
        texts.append(template.render(chat))
        texts.append(template.render(asked(chat), ask=True))
    return [_ids(tokenizer, text) for text in texts]


def asked(chat: Sequence[Message]) -> Sequence[Message]:
    """The chat up to its last question."""
    return chat[:-1] if len(chat) > 1 and chat[-1].role == "assistant" else chat


def answer_turns(tokenizer: PreTrainedTokenizerFast, chats: Sequence[Sequence[Message]], context: int) -> list[Turn]:
    """Every answer in the chats that fits the context. Errors: ship.no_answers when there is none."""
    template = ChatTemplate(tokenizer)
    special = set(tokenizer.all_special_ids)
    turns: list[Turn] = []
    for chat in chats:
        for place, message in enumerate(chat):
            if message.role != "assistant":
                continue
            prompt = _ids(tokenizer, template.render(chat[:place], ask=True))
            through = _ids(tokenizer, template.render(chat[: place + 1]))
            if through[: len(prompt)] != prompt:
                continue
            answer = _until_special(through[len(prompt) :][:LONGEST_ANSWER], special)
            if answer and len(prompt) + len(answer) <= context:
                turns.append(Turn(tuple(prompt), tuple(answer)))
    if not turns:
        raise TunesmithError("ship.no_answers", chats=len(chats))
    return turns


def broken_tokens(tokenizer: PreTrainedTokenizerFast, turns: Sequence[Turn]) -> frozenset[int]:
    """Tokens of the answers that hold part of a character and are no text by themselves."""
    used = sorted({token for turn in turns for token in turn.answer})
    return frozenset(token for token in used if "\N{REPLACEMENT CHARACTER}" in str(tokenizer.decode([token])))


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _until_special(ids: Sequence[int], special: set[int]) -> list[int]:
    for place, token in enumerate(ids):
        if token in special:
            return list(ids[: place + 1])
    return list(ids)


def load_untouched(base: BaseFolder, instead: Mapping[str, Tensor] = NOTHING_INSTEAD) -> PreTrainedModel:
    """What the change is put on, in float32: the base, with weights that stand in for its own."""
    model = load_model(base.path, dtype=torch.float32).model
    _put_instead(model, instead)
    return model


def _put_instead(model: PreTrainedModel, instead: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in instead.items():
            model.get_parameter(name).copy_(weight)


def load_evaluated(base: BaseFolder, change: Path, instead: Mapping[str, Tensor] = NOTHING_INSTEAD) -> PreTrainedModel:
    """Base and change side by side in float32, nothing merged. Errors: those of `put_on` and of loading."""
    model = load_untouched(base, instead)
    put_on(model, change)
    return model


def load_evaluated_classes(
    base: BaseFolder, change: Path, head: Head, instead: Mapping[str, Tensor] = NOTHING_INSTEAD
) -> PreTrainedModel:
    """The same for a base with a task head."""
    loaded = load_with_head(base.path, head, dtype=torch.float32)
    _put_instead(loaded.model, instead)
    put_on(loaded.model, change, loaded.new)
    return loaded.model


class Reader:
    """Reads turns with one model, behind its learned beginning if it has one.

    What all prompts begin with is read once.
    """

    def __init__(self, model: nn.Module, turns: Sequence[Turn]) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self._config = cast(PretrainedConfig, model.config)
        self._prefix = _common_prefix(turns) if _may_share(model, self._config) else ()
        self._before = keys_before(model) if isinstance(model, PreTrainedModel) else ()
        self._cache: DynamicCache | None = None

    @torch.inference_mode()
    def logits(self, turn: Turn) -> Tensor:
        """Logits at every position of the answer, [K, V] float32, the answer given token by token."""
        ids = torch.tensor([[*turn.prompt, *turn.answer[:-1]]], device=self._device)
        first = len(self._prefix)
        cache = self._shared(ids[:, :first]) if first or self._before else None
        output = self._model(
            input_ids=ids[:, first:],
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=len(turn.answer),
        )
        if cache is not None:
            cache.crop(first - ids.shape[1])  # back to what all turns begin with
        logits_KV: Tensor = output.logits[0].float()
        return logits_KV

    def _shared(self, ids: Tensor) -> DynamicCache:
        if self._cache is None:
            cache = DynamicCache(config=self._config)
            for layer, (keys_GPS, values_GPS) in enumerate(self._before):
                cache.update(keys_GPS[None], values_GPS[None], layer)
            if ids.shape[1]:
                self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            self._cache = cache
        return self._cache


def _may_share(model: nn.Module, config: PretrainedConfig) -> bool:
    """Whether a cache of our own may be handed in: not where PEFT puts learned tokens before every text."""
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return False
    kinds = set(getattr(config, "layer_types", None) or ())
    return kinds <= {"full_attention"} and getattr(config, "sliding_window", None) is None


def _common_prefix(turns: Sequence[Turn]) -> tuple[int, ...]:
    """Tokens that every prompt begins with, at least one short of the shortest prompt."""
    shortest, longest = min(turn.prompt for turn in turns), max(turn.prompt for turn in turns)
    count = 0
    while count < min(len(shortest), len(longest)) and shortest[count] == longest[count]:
        count += 1
    count = min(count, min(len(turn.prompt) for turn in turns) - 1)
    return shortest[: max(count, 0)]
