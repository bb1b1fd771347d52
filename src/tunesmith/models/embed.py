"""Vectors of texts by the bundled encoder: the mean of its last hidden states, of unit length.

As Sentence-BERT pools (Reimers and Gurevych 2019, section 3); the model was trained on texts of at most MAX_TOKENS.

    N texts   L tokens of the longest   W hidden size
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunesmith.models.load import load_body, resolve_base

ENCODER = "minilm-l6"
MAX_TOKENS = 256
_AT_ONCE = 32


class TextEmbedder:
    """Texts in, vectors out. English texts: the bundled encoder knows hardly any other language."""

    def __init__(self, base: str = ENCODER) -> None:
        """Errors: those of `resolve_base` and `load_body`."""
        self._model, self._tokenizer = load_body(resolve_base(base).path)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One vector a text [N, W]; what stands behind MAX_TOKENS does not count."""
        found = np.empty((len(texts), int(self._model.config.hidden_size)), np.float32)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # alike long ones need little padding
        for first in range(0, len(order), _AT_ONCE):
            places = order[first : first + _AT_ONCE]
            found[places] = self._vectors([texts[place] for place in places]).numpy()
        return found

    @torch.inference_mode()
    def _vectors(self, texts: list[str]) -> Tensor:
        encoded = self._tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        hidden_NLW: Tensor = self._model(**encoded).last_hidden_state
        real_NL1 = encoded["attention_mask"][:, :, None].to(hidden_NLW.dtype)
        mean_NW = (hidden_NLW * real_NL1).sum(dim=1) / real_NL1.sum(dim=1).clamp(min=1)
        return torch.nn.functional.normalize(mean_NW, dim=1)
