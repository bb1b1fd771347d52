"""Batched generation: many prompts are continued together, and new ones join between two steps.

Shape letters: B prompts, Q tokens of one forward pass, V vocabulary.

What saves time: prompts of like length are read together, what all of them begin with (instructions, examples) is
read once, logits are computed at the last position alone, and answers that end leave the batch at once. In float32
the greedy answer is that of `transformers.generate` on the single prompt; in bfloat16 the rounding depends on which
prompts share a batch, and near ties may fall the other way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.core.errors import TunesmithError
from tunesmith.models.batch_cache import BatchCache
from tunesmith.models.sampling import Chosen, Constraint, GenerateSettings, choose
from tunesmith.models.text_stream import TextStream

FinishReason = Literal["stop", "length", "fault"]
"""An end token or stop text; the length limit; numbers that are not finite."""

_SHORTEST_SHARED = 16
"""Fewer common tokens than this are cheaper to read again than to share."""
_UNUSED_COLUMNS = 64
_CACHED_KINDS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


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

    def advance(self, logits_V: Tensor, finite: bool) -> Progress:
        """Choose the next token; logits that are not finite end this answer and no other."""
        if not finite:
            return Progress(self.number, Chosen(-1), self._stream.finish(), self._completion("fault"))
        chosen = choose(logits_V, self.settings, self._generator, self.constraint)
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
        model: a causal model in evaluation mode with sdpa attention (see `generating`).
        tokenizer: turns the answers into text.
        batch_size: most answers that grow together.
        prefill_tokens: most prompt tokens, padding included, of one forward pass (a longer prompt goes alone).
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
        kinds = frozenset(getattr(config, "layer_types", None) or ())
        if kinds - _CACHED_KINDS:
            raise TunesmithError("generate.unknown_layers", kinds=", ".join(sorted(kinds - _CACHED_KINDS)))
        self._model = model
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._prefill_tokens = prefill_tokens
        self._layers = int(config.num_hidden_layers)
        # A gap in the middle of a row would make a window that counts columns too short.
        self._may_share = kinds <= {"full_attention"} and getattr(config, "sliding_window", None) is None
        self._waiting: deque[_Answer] = deque()
        self._running: list[_Answer] = []
        self._cache: BatchCache | None = None
        self._shared: tuple[tuple[int, ...], BatchCache] | None = None
        self._added = 0
        self.context = int(getattr(config, "max_position_embeddings", 0)) or 2**31

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

    def remove(self, number: int) -> None:
        """Give an answer up, wherever it is; unknown and ended ones are ignored."""
        self._waiting = deque(answer for answer in self._waiting if answer.number != number)
        for row, answer in enumerate(self._running):
            if answer.number == number:
                self._leave(row)
                return

    def step(self) -> list[Progress]:
        """One more token for every answer under way, and the first one for those that join."""
        with torch.inference_mode():
            progress = self._grow() if self._running else []
            room = self._batch_size - len(self._running)
            # A reading pass for one prompt costs little less than one for many: let places gather.
            if self._waiting and (not self._running or room >= min(len(self._waiting), self._batch_size // 4 or 1)):
                progress += self._admit(room)
        return progress

    def share(self, prefix: Sequence[int]) -> None:
        """Read once what the coming prompts begin with. Nothing is kept where it would not pay or not be exact."""
        if self._may_share and _SHORTEST_SHARED <= len(prefix) < self.context:
            with torch.inference_mode():
                cache = self._new_cache(1)
                self._forward(cache, torch.tensor([list(prefix)], device=self._model.device), None)
            self._shared = tuple(prefix), cache

    def _new_cache(self, rows: int) -> BatchCache:
        cache = BatchCache(self._layers, self._model.device)
        cache.start(rows)
        return cache

    def _forward(self, cache: BatchCache, token_ids_BQ: Tensor, mask_BQ: Tensor | None) -> Tensor:
        """Read tokens into the cache; returns the logits after the last one, [B, V] float32."""
        positions_BQ = cache.extend(torch.ones_like(token_ids_BQ) if mask_BQ is None else mask_BQ)
        output = self._model(
            input_ids=token_ids_BQ,
            attention_mask=cache.mask_BL,
            position_ids=positions_BQ,
            past_key_values=cache.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV: Tensor = output.logits[:, -1].float()
        return logits_BV

    def _grow(self) -> list[Progress]:
        cache = self._cache
        if cache is None:
            raise RuntimeError("answers are running without a cache")
        last = [[answer.chosen[-1].token_id] for answer in self._running]
        logits_BV = self._forward(cache, torch.tensor(last, device=self._model.device), None)
        progress = _advance(self._running, logits_BV)
        for row in reversed(range(len(progress))):
            if progress[row].completion is not None:
                self._leave(row)
        self._drop_unused_columns()
        return progress

    @torch.inference_mode()
    def _leave(self, row: int) -> None:
        self._running[row] = self._running[-1]
        self._running.pop()
        if self._cache is not None:
            self._cache.remove(row)
        if not self._running:
            self._cache = None

    def _drop_unused_columns(self) -> None:
        if self._cache is not None:
            used = int(self._cache.mask_BL.any(0).sum())
            if self._cache.columns - used > max(_UNUSED_COLUMNS, used // 4):
                self._cache = self._cache.select(list(range(len(self._cache))))

    def _admit(self, room: int) -> list[Progress]:
        """Read waiting prompts in groups of like length, choose their first tokens, let them join."""
        coming = sorted((self._waiting.popleft() for _ in range(min(room, len(self._waiting)))), key=_length)
        progress = []
        while coming:
            count = 1
            while count < len(coming) and _length(coming[count]) * (count + 1) <= self._prefill_tokens:
                count += 1
            group, coming = coming[:count], coming[count:]
            cache, logits_BV = self._read(group)
            started = _advance(group, logits_BV)
            progress += started
            going_on = [row for row, each in enumerate(started) if each.completion is None]
            if going_on:
                self._running += [group[row] for row in going_on]
                cache = cache if len(going_on) == len(group) else cache.select(going_on)
                if self._cache is None:
                    self._cache = cache
                else:
                    self._cache.join(cache)
        return progress

    def _read(self, group: list[_Answer]) -> tuple[BatchCache, Tensor]:
        """Cache of a group's prompts, and the logits after each, [B, V]."""
        prefix = self._prefix_of(group)
        if prefix and self._shared is not None:
            cache = self._shared[1].select([0] * len(group))
        else:
            cache = self._new_cache(len(group))
        rest = [answer.prompt[len(prefix) :] for answer in group]
        longest = max(map(len, rest))
        token_ids = [[0] * (longest - len(row)) + list(row) for row in rest]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rest]
        device = self._model.device
        return cache, self._forward(cache, torch.tensor(token_ids, device=device), torch.tensor(mask, device=device))

    def _prefix_of(self, group: list[_Answer]) -> tuple[int, ...]:
        """What the group begins with and has been read already; a group may bring a prefix of its own."""
        prompts = [answer.prompt for answer in group]
        for attempt in range(2):
            if self._shared is not None:
                prefix = self._shared[0]
                if all(len(prompt) > len(prefix) and prompt[: len(prefix)] == prefix for prompt in prompts):
                    return prefix
            if attempt or len(prompts) == 1:
                return ()
            common = common_prefix(prompts)
            if len(common) < _SHORTEST_SHARED or not self._may_share:
                return ()
            self.share(common)
        return ()


def _advance(answers: list[_Answer], logits_BV: Tensor) -> list[Progress]:
    finite_B = logits_BV.amax(1).isfinite().tolist()  # a NaN anywhere in a row makes its maximum a NaN
    return [answer.advance(*row) for answer, *row in zip(answers, logits_BV, finite_B, strict=True)]


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
