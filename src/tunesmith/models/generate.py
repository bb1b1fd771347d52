"""Batched generation: many prompts are continued together, and new ones join between two steps.

Shape letters: B prompts, Q tokens of one forward pass, V vocabulary.

What saves time: prompts of like length are read together, what all of them begin with (instructions, examples) is
read once, logits are computed at the last position alone, and answers that end leave the batch at once. Models of the
Llama shape go through passes of our own (`decode.py`), every other model through transformers' (`padded.py`). In
float32 the greedy answer is that of `transformers.generate` on the single prompt; in bfloat16 the rounding depends on
which prompts share a batch, and near ties may fall the other way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.core.errors import TunesmithError
from tunesmith.models.beginning import context_of, places_before
from tunesmith.models.decode import packed_rows
from tunesmith.models.padded import PaddedRows
from tunesmith.models.sampling import Chosen, Constraint, GenerateSettings, choose, likeliest
from tunesmith.models.text_stream import TextStream

FinishReason = Literal["stop", "length", "fault"]
"""An end token or stop text; the length limit; numbers that are not finite."""

_SHORTEST_SHARED = 16
"""Fewer common tokens than this are cheaper to read again than to share."""


@dataclass(frozen=True)
class Completion:
    """An answer. `token_ids` and `chosen` hold its tokens, the end token (`end_token_id`, if one came) left out."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    end_token_id: int | None = None
    chosen: tuple[Chosen, ...] = ()


@dataclass(frozen=True)
class Progress:
    """One token of the answer to prompt `number`, the text that is safe to show now, and the end if this is it."""

    number: int
    chosen: Chosen
    text: str
    completion: Completion | None


OnToken = Callable[[Progress], None]


class Rows(Protocol):
    """The prompts under way in a model, each with a number, and what has been computed of them."""

    def share(self, prefix: Sequence[int]) -> None:
        """Read once what coming prompts begin with."""

    def read(self, numbers: Sequence[int], prompts: Sequence[Sequence[int]], shared: int) -> Tensor:
        """Read prompts, the first `shared` tokens of which were given to `share`; logits after each, [B, V]."""

    def grow(self, latest: Mapping[int, int]) -> tuple[list[int], Tensor]:
        """Read the latest token of every row; returns the rows' numbers and, in this order, their logits, [B, V]."""

    def remove(self, number: int) -> None:
        """Drop a row."""


class _Answer:
    """A prompt and what has been answered so far."""

    def __init__(
        self,
        number: int,
        prompt: tuple[int, ...],
        settings: GenerateSettings,
        constraint: Constraint | None,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.number = number
        self.prompt = prompt
        self.settings = settings
        self.constraint = constraint
        self.chosen: list[Chosen] = []
        self._stream = TextStream(tokenizer, settings.stop)
        self._generator = torch.Generator().manual_seed(settings.seed)

    def advance(self, logits_V: Tensor, likeliest: int, finite: bool) -> Progress:
        """Choose the next token; logits that are not finite end this answer and no other."""
        if not finite:
            return Progress(self.number, Chosen(-1), self._stream.finish(), self._completion("fault"))
        if self.settings.temperature == 0 and self.settings.logprobs is None and self.constraint is None:
            chosen = Chosen(likeliest)
        else:
            chosen = choose(logits_V.float(), self.settings, self._generator, self.constraint)
        if chosen.token_id in self.settings.end_token_ids:
            text = self._stream.finish()
            return Progress(self.number, chosen, text, self._completion("stop", chosen.token_id))
        self.chosen.append(chosen)
        text = self._stream.push(chosen.token_id)
        if self._stream.stopped or (self.constraint is not None and self.constraint.ended):
            text += self._stream.finish()
            return Progress(self.number, chosen, text, self._completion("stop"))
        if len(self.chosen) >= self.settings.max_new_tokens:
            text += self._stream.finish()
            return Progress(self.number, chosen, text, self._completion("length"))
        return Progress(self.number, chosen, text, None)

    def _completion(self, reason: FinishReason, end_token_id: int | None = None) -> Completion:
        token_ids = tuple(chosen.token_id for chosen in self.chosen)
        return Completion(token_ids, self._stream.text, reason, end_token_id, tuple(self.chosen))


class Decoder:
    """The stepwise engine: `add` prompts at any time, `step` until nothing is `busy`. For one thread.

    Args:
        model: a causal model in evaluation mode with sdpa attention (see `generating`), whose weights stay as they are.
        tokenizer: turns the answers into text.
        batch_size: most answers that grow together.
        prefill_tokens: most prompt tokens, padding included, of one forward pass (a longer prompt goes alone).

    Errors: generate.unknown_layers.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 32,
        prefill_tokens: int = 8192,
    ) -> None:
        config = model.config.get_text_config()
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._prefill_tokens = prefill_tokens
        # A gap in the middle of a row would make a window that counts columns too short.
        kinds = frozenset(getattr(config, "layer_types", None) or ())
        self._may_share = kinds <= {"full_attention"} and getattr(config, "sliding_window", None) is None
        self._rows: Rows = packed_rows(model) or PaddedRows(model)
        self._waiting: deque[_Answer] = deque()
        self._running: dict[int, _Answer] = {}
        self._shared: tuple[int, ...] = ()
        self._added = 0
        self.context = context_of(model) - places_before(model)

    @property
    def busy(self) -> bool:
        """Whether an answer is under way or waits."""
        return bool(self._waiting or self._running)

    def add(self, prompt: Sequence[int], settings: GenerateSettings, constraint: Constraint | None = None) -> int:
        """Enter a prompt and return its number; the answer is cut where the model's context ends.

        Errors: generate.empty_prompt, generate.prompt_too_long.
        """
        if not prompt:
            raise TunesmithError("generate.empty_prompt")
        if len(prompt) >= self.context:
            raise TunesmithError("generate.prompt_too_long", tokens=len(prompt), context=self.context)
        room = self.context - len(prompt)
        if settings.max_new_tokens > room:
            settings = GenerateSettings(**{**vars(settings), "max_new_tokens": room})
        number = self._added
        self._added += 1
        self._waiting.append(_Answer(number, tuple(prompt), settings, constraint, self._tokenizer))
        return number

    @torch.inference_mode()
    def remove(self, number: int) -> None:
        """Give an answer up, wherever it is; unknown and ended ones are ignored."""
        self._waiting = deque(answer for answer in self._waiting if answer.number != number)
        if self._running.pop(number, None) is not None:
            self._rows.remove(number)

    @torch.inference_mode()
    def step(self) -> list[Progress]:
        """One more token for every answer under way, and the first one for those that join."""
        progress = self._grow() if self._running else []
        room = self._batch_size - len(self._running)
        # A reading pass for one prompt costs little less than one for many: let places gather.
        if self._waiting and (not self._running or room >= min(len(self._waiting), self._batch_size // 4 or 1)):
            progress += self._admit(room)
        return progress

    @torch.inference_mode()
    def share(self, prefix: Sequence[int]) -> None:
        """Read once what the coming prompts begin with. Nothing is kept where it would not pay or not be exact."""
        if self._may_share and _SHORTEST_SHARED <= len(prefix) < self.context:
            self._rows.share(prefix)
            self._shared = tuple(prefix)

    def _grow(self) -> list[Progress]:
        latest = {number: answer.chosen[-1].token_id for number, answer in self._running.items()}
        numbers, logits_BV = self._rows.grow(latest)
        return self._advance([self._running[number] for number in numbers], logits_BV)

    def _advance(self, answers: Sequence[_Answer], logits_BV: Tensor) -> list[Progress]:
        """Choose the next token of every answer; those that end leave."""
        best = likeliest(logits_BV)
        progress = [answer.advance(logits_BV[row], *best[row]) for row, answer in enumerate(answers)]
        for each in progress:
            if each.completion is not None:
                del self._running[each.number]
                self._rows.remove(each.number)
        return progress

    def _admit(self, room: int) -> list[Progress]:
        """Read waiting prompts in groups of like length, choose their first tokens, let them join."""
        coming = sorted((self._waiting.popleft() for _ in range(min(room, len(self._waiting)))), key=_length)
        progress = []
        while coming:
            count = 1
            while count < len(coming) and _length(coming[count]) * (count + 1) <= self._prefill_tokens:
                count += 1
            group, coming = coming[:count], coming[count:]
            prompts = [answer.prompt for answer in group]
            logits_BV = self._rows.read([answer.number for answer in group], prompts, self._shared_by(prompts))
            self._running.update((answer.number, answer) for answer in group)
            progress += self._advance(group, logits_BV)
        return progress

    def _shared_by(self, prompts: Sequence[tuple[int, ...]]) -> int:
        """How many tokens the prompts begin with have been read already; prompts may bring a prefix of their own."""
        for attempt in range(2):
            prefix = self._shared
            if prefix and all(len(prompt) > len(prefix) and prompt[: len(prefix)] == prefix for prompt in prompts):
                return len(prefix)
            common = () if attempt or len(prompts) == 1 else common_prefix(prompts)
            if len(common) < _SHORTEST_SHARED or not self._may_share:
                return 0
            self.share(common)
        return 0


def _length(answer: _Answer) -> int:
    return len(answer.prompt)


def common_prefix(prompts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The longest beginning of all prompts that leaves at least one token of each."""
    lowest, highest = min(prompts, key=tuple), max(prompts, key=tuple)
    most = min(map(len, prompts)) - 1
    for place in range(most):
        if lowest[place] != highest[place]:
            return tuple(lowest[:place])
    return tuple(lowest[: max(most, 0)])


@contextmanager
def generating(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode and padded (sdpa) attention inside the block, what was before after it."""
    was_training = model.training
    attention = model.config._attn_implementation
    model.eval()
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(attention)
        model.train(was_training)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    settings: GenerateSettings | Sequence[GenerateSettings],
    *,
    on_token: OnToken | None = None,
    constraints: Sequence[Constraint | None] | None = None,
    batch_size: int = 32,
) -> list[Completion]:
    """Continue prompts of token ids; the answers come in the order of the prompts.

    Args:
        model: any causal model that transformers can cache; it is left as it was.
        tokenizer: its tokenizer.
        prompts: token ids of each prompt, at least one.
        settings: one for all prompts, or one for each.
        on_token: called for every token, with the prompt's place as `number`.
        constraints: what each answer must look like, or None.
        batch_size: most answers that grow together.

    Errors: generate.empty_prompt, generate.prompt_too_long, generate.unknown_layers, generate.not_finite.
    """
    listed = [settings] * len(prompts) if isinstance(settings, GenerateSettings) else list(settings)
    limits = [None] * len(prompts) if constraints is None else list(constraints)
    with generating(model):
        decoder = Decoder(model, tokenizer, batch_size=batch_size)
        # Longest first: what is left at the end, when the batch empties, is short.
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        places = {decoder.add(prompts[place], listed[place], limits[place]): place for place in order}
        if len(prompts) > 1:
            decoder.share(common_prefix(prompts))
        found: dict[int, Completion] = {}
        while decoder.busy:
            for progress in decoder.step():
                place = places[progress.number]
                if progress.completion is not None:
                    if progress.completion.finish_reason == "fault":
                        raise TunesmithError("generate.not_finite", prompt=place)
                    found[place] = progress.completion
                if on_token is not None:
                    on_token(Progress(place, progress.chosen, progress.text, progress.completion))
    return [found[place] for place in range(len(prompts))]
