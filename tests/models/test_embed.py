from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Origin
from tunesmith.data.dedup import drop_semantic_duplicates
from tunesmith.data.table import from_examples
from tunesmith.models.embed import MAX_TOKENS, TextEmbedder

TEXTS = ["The parcel has not arrived yet.", "My package still has not come.", "How do I bake bread?", "x " * 600, ""]


@pytest.fixture(scope="module")
def embed(minilm: Path) -> TextEmbedder:
    return TextEmbedder("minilm-l6")


def test_vectors_are_the_mean_of_the_last_layer(embed: TextEmbedder, minilm: Path) -> None:
    found = embed(TEXTS)
    assert found.shape == (5, 384)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    model, tokenizer = AutoModel.from_pretrained(minilm).eval(), AutoTokenizer.from_pretrained(minilm)
    for text, vector in zip(TEXTS, found, strict=True):
        encoded = tokenizer([text], truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            plain = model(**encoded).last_hidden_state[0].mean(dim=0)
        assert np.allclose(vector, (plain / plain.norm()).numpy(), atol=1e-4), "alone, so without padding"
    assert embed([]).shape == (0, 384)


def test_what_means_the_same_is_near(embed: TextEmbedder) -> None:
    vectors = embed(TEXTS[:3])
    near, far = (float(vectors[0] @ vectors[place]) for place in (1, 2))
    assert near > far + 0.3
    rows = from_examples([Example(i, "text", Origin("s", i), text=text) for i, text in enumerate(TEXTS[:3])])
    ledger = Ledger()
    ledger.read("s", 3)
    assert drop_semantic_duplicates(rows, (near + far) / 2, embed, ledger)["row"].to_list() == [0, 2]
