"""The general way to continue prompts: transformers' forward over rows padded to equal length, with our own cache.

Shape letters: B rows, Q tokens of one forward pass, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith.core.errors import TunesmithError
from tunesmith.models.batch_cache import BatchCache
from tunesmith.models.beginning import keys_before

_UNUSED_COLUMNS = 64
_CACHED_KINDS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


class PaddedRows:
    """The rows under way in any model that transformers can cache: one form of the engine's `Rows`.

    Errors: generate.unknown_layers.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        unknown = frozenset(getattr(config, "layer_types", None) or ()) - _CACHED_KINDS
        if unknown:
            raise TunesmithError("generate.unknown_layers", kinds=", ".join(sorted(unknown)))
        self._model = model
        self._layers = int(config.num_hidden_layers)
        self._numbers: list[int] = []
        self._cache: BatchCache | None = None
        with torch.inference_mode():
            self._start = self._beginning()
        self._shared = self._start

    def share(self, prefix: Sequence[int]) -> None:
        """Read what coming prompts begin with."""
        cache = self._after(self._start, 1)
        self._forward(cache, torch.tensor([list(prefix)], device=self._model.device), None)
        self._shared = cache

    def read(self, numbers: Sequence[int], prompts: Sequence[Sequence[int]], shared: int) -> Tensor:
        """Read prompts, the first `shared` tokens of which were given to `share`; logits after each, [B, V]."""
        cache = self._after(self._shared if shared else self._start, len(prompts))
        rest = [prompt[shared:] for prompt in prompts]
        longest = max(map(len, rest))
        token_ids = [[0] * (longest - len(row)) + list(row) for row in rest]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rest]
        device = self._model.device
        logits_BV = self._forward(cache, torch.tensor(token_ids, device=device), torch.tensor(mask, device=device))
        if self._cache is None:
            self._cache = cache
        else:
            self._cache.join(cache)
        self._numbers += numbers
        return logits_BV

    def grow(self, latest: Mapping[int, int]) -> tuple[list[int], Tensor]:
        """Read the latest token of every row; returns the rows' numbers and, in this order, their logits, [B, V]."""
        if self._cache is None:
            raise RuntimeError("there are no rows to grow")
        used = int(self._cache.mask_BL.any(0).sum())
        if self._cache.columns - used > max(_UNUSED_COLUMNS, used // 4):
            self._cache = self._cache.select(list(range(len(self._cache))))
        last = torch.tensor([[latest[number]] for number in self._numbers], device=self._model.device)
        return list(self._numbers), self._forward(self._cache, last, None)

    def remove(self, number: int) -> None:
        """Drop a row; the last one takes its place."""
        row = self._numbers.index(number)
        self._numbers[row] = self._numbers[-1]
        self._numbers.pop()
        if self._cache is not None:
            self._cache.remove(row)
        if not self._numbers:
            self._cache = None

    def _beginning(self) -> BatchCache | None:
        """What stands before every row; None without a learned beginning."""
        keys_and_values = keys_before(self._model)
        if not keys_and_values:
            return None
        cache = self._after(None, 1)
        cache.extend(torch.ones(1, keys_and_values[0].shape[2], dtype=torch.long, device=self._model.device))
        cache.fill(keys_and_values)
        return cache

    def _after(self, start: BatchCache | None, rows: int) -> BatchCache:
        """A cache of rows that have all read what `start` has."""
        if start is not None:
            return start.select([0] * rows)
        cache = BatchCache(self._layers, self._model.device)
        cache.start(rows)
        return cache

    def _forward(self, cache: BatchCache, token_ids_BQ: Tensor, mask_BQ: Tensor | None) -> Tensor:
        """Read tokens into the cache; returns the logits after the last one, [B, V]."""
        positions_BQ = cache.extend(torch.ones_like(token_ids_BQ) if mask_BQ is None else mask_BQ)
        output = self._model(
            input_ids=token_ids_BQ,
            attention_mask=cache.mask_BL,
            position_ids=positions_BQ,
            past_key_values=cache.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV: Tensor = output.logits[:, -1]
        return logits_BV
