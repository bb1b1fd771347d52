"""Attention of documents against torch's own, one document at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tunesmith.models import attention
from tunesmith.models.attention import document_attention
from tunesmith.models.packed import Documents

GROUPS, REPEATS, SIZE, SCALING = 2, 3, 8, 0.3
DOCUMENTS = Documents(((0, 5), (5, 26), (26, 33), (33, 34), (34, 45)), (-1, -1, 1, 1, -1))
"""The third and the fourth continue the second."""
LAYOUTS = {
    "documents": DOCUMENTS,
    "behind virtual tokens": DOCUMENTS.behind(7, unread=False),
    "behind learned keys": DOCUMENTS.behind(7, unread=True),
}


def inputs(dtype: torch.dtype, documents: Documents = DOCUMENTS) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    keys = documents.spans[-1][1]
    query = torch.randn(GROUPS, keys - documents.unread, REPEATS, SIZE, dtype=dtype, requires_grad=True)
    key, value = (torch.randn(GROUPS, keys, SIZE, dtype=dtype, requires_grad=True) for _ in range(2))
    return query, key, value


def by_rows(query: Tensor, key: Tensor, value: Tensor, documents: Documents = DOCUMENTS) -> Tensor:
    """Each document with the tokens before it as one ordinary sequence."""
    parts = []
    for (first, last), before in documents.chains():
        places = [*(place for span in before for place in range(*span)), *range(first, last)]
        queries = query[:, first - documents.unread : last - documents.unread].transpose(1, 2).flatten(0, 1)[None]
        keys, values = (each[:, places].repeat_interleave(REPEATS, 0)[None] for each in (key, value))
        ahead = torch.full((last - first, len(places)), float("-inf"), dtype=query.dtype)
        ahead = ahead.triu(len(places) - (last - first) + 1)
        part = scaled_dot_product_attention(queries, keys, values, attn_mask=ahead, scale=SCALING)[0]
        parts.append(part.unflatten(0, (GROUPS, REPEATS)).transpose(1, 2))
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kept", [0, 512], ids=["shares made again", "shares kept"])
@pytest.mark.parametrize(
    ("at_once", "grain"), [(192, 16), (192, 1), (4, 2)], ids=["one block", "not rounded up", "many blocks"]
)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_documents_attend_as_single_rows_do(
    dtype: torch.dtype,
    close: float,
    at_once: int,
    grain: int,
    kept: int,
    layout: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "QUERIES_AT_ONCE", at_once)
    monkeypatch.setattr(attention, "GRAIN", grain)
    monkeypatch.setattr(attention, "KEPT_UP_TO", kept)
    documents = LAYOUTS[layout]
    tensors = inputs(dtype, documents)
    weights = torch.randn(tensors[0].shape, dtype=dtype)
    expected = by_rows(*tensors, documents)
    wanted = torch.autograd.grad((expected * weights).sum(), tensors)
    found = document_attention(*tensors, documents, SCALING)
    torch.testing.assert_close(found, expected, rtol=close, atol=close)
    gradients = torch.autograd.grad((found * weights).sum(), tensors)
    torch.testing.assert_close(gradients, wanted, rtol=close, atol=3 * close)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_library_form_agrees(layout: str) -> None:
    documents = LAYOUTS[layout]
    tensors = inputs(torch.float64, documents)
    found = attention._library_attention(*tensors, documents, SCALING)
    torch.testing.assert_close(found, by_rows(*tensors, documents), rtol=1e-12, atol=1e-12)


def test_a_document_is_computed_up_to_a_round_number_of_tokens_unless_it_is_the_last() -> None:
    found = list(attention.documents_in_blocks(Documents(((0, 20), (20, 220), (220, 240)), (-1, 0, -1))))
    assert [document.computed for document in found] == [(0, 32), (20, 220 + 8), (220, 240)]
    assert [(block.reach, block.foreign) for block in found[1].blocks] == [(20 + 192, 0), (20 + 208, 8)]


def test_the_longest_reach_counts_what_stands_before() -> None:
    assert DOCUMENTS.longest_reach() == 28
    assert DOCUMENTS.behind(7, unread=True).longest_reach() == DOCUMENTS.behind(7, unread=False).longest_reach() == 35


def test_a_beginning_stands_before_every_document_and_only_virtual_tokens_are_computed() -> None:
    chains = [before for _, before in DOCUMENTS.behind(7, unread=False).chains()]
    assert chains == [(), ((0, 7),), ((0, 7),), ((0, 7), (12, 33)), ((0, 7), (12, 33)), ((0, 7),)]
    assert [before for _, before in DOCUMENTS.behind(7, unread=True).chains()] == chains[1:]
