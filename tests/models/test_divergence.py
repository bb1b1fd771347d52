"""The loss of distillation against the plain formula and autograd: in whole, by its most likely tokens, in chunks."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, linear

from tunesmith.models import linear_loss as chunks
from tunesmith.models.divergence import Computed, Divergence, Kept, Wanted, at_temperature
from tunesmith.models.linear_loss import linear_loss

K, W, V, TEACHER_W = 11, 6, 17, 4


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 4)


def drawn(*shape: int, seed: int, spread: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread


def kept(log_p_KV: Tensor, tokens: int) -> Kept:
    best = log_p_KV.topk(tokens, dim=-1)
    return Kept(best.values, best.indices.int())


def bucketed(log_p_KV: Tensor, log_q_KV: Tensor, tokens: int) -> Tensor:
    """KL over the teacher's likeliest tokens and one bucket for the rest, by the definition."""
    order = log_p_KV.argsort(dim=-1, descending=True)
    p, q = (each.exp().gather(1, order) for each in (log_p_KV, log_q_KV))
    both = [torch.cat([each[:, :tokens], each[:, tokens:].sum(-1, keepdim=True)], dim=1) for each in (p, q)]
    return (both[0] * (both[0].log() - both[1].log())).sum(-1)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("tokens", [None, V, 5, 1], ids=["all", "top all", "top 5", "top 1"])
@pytest.mark.parametrize("head_trains", [False, True])
def test_value_and_gradients_are_those_of_the_formula(
    alpha: float, temperature: float, tokens: int | None, head_trains: bool
) -> None:
    hidden, head = drawn(K, W, seed=1).requires_grad_(), drawn(V, W, seed=2).requires_grad_(head_trains)
    theirs, their_head = drawn(K, TEACHER_W, seed=3), drawn(V, TEACHER_W, seed=4)
    target, weight = torch.arange(K) % V, drawn(K, seed=5).abs()
    log_p = at_temperature(linear(theirs, their_head), temperature)
    wanted: Wanted = Computed(theirs, their_head, V, temperature) if tokens is None else kept(log_p, tokens)
    parts = linear_loss(hidden, head, Divergence(wanted, target, temperature, alpha))
    (parts * weight).sum().backward()

    logits = linear(hidden.detach(), head.detach()).requires_grad_()
    log_q = torch.log_softmax(logits / temperature, -1)
    if tokens in (None, V):
        soft = kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    else:
        soft = bucketed(log_p, log_q, tokens)
    expected = [alpha * temperature**2 * soft]
    if alpha < 1:
        expected.insert(0, (1 - alpha) * cross_entropy(logits, target, reduction="none"))
    torch.testing.assert_close(parts.detach(), torch.stack(expected).detach(), rtol=1e-10, atol=1e-12)
    (torch.stack(expected) * weight).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(hidden.grad, logits.grad @ head.detach(), rtol=1e-9, atol=1e-12)
    if head_trains:
        torch.testing.assert_close(head.grad, logits.grad.T @ hidden.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tokens", [None, V, 5])
def test_equal_models_are_no_distance_apart(tokens: int | None) -> None:
    hidden, head = drawn(K, W, seed=1).requires_grad_(), drawn(V, W, seed=2)
    log_p = at_temperature(linear(hidden.detach(), head), 2.0)
    wanted: Wanted = Computed(hidden.detach(), head, V, 2.0) if tokens is None else kept(log_p, tokens)
    parts = linear_loss(hidden, head, Divergence(wanted, torch.zeros(K, dtype=torch.long), 2.0, 1.0))
    parts.sum().backward()
    assert parts.abs().max() < 1e-12
    assert hidden.grad is not None and hidden.grad.abs().max() < 1e-12


def test_fewer_tokens_never_say_more_and_more_tokens_say_more() -> None:
    log_p, log_q = (torch.log_softmax(drawn(50, V, seed=seed, spread=3.0), -1) for seed in (6, 7))
    logits = log_q.clone()
    told = []
    for tokens in (1, 3, 9, V):
        measure = Divergence(kept(log_p, tokens), torch.zeros(50, dtype=torch.long), 1.0, 1.0)
        told.append(measure(logits.clone(), slice(0, 50), False)[0][0])
    for fewer, more in pairwise(told):
        assert bool((fewer <= more + 1e-12).all())
    assert bool((told[0] >= 0).all())


def test_a_sure_teacher_and_a_sure_student_stay_finite() -> None:
    sure = torch.zeros(2, V)
    sure[0, 3] = sure[1, 4] = 200.0
    for tokens in (1, 5):
        for row, other in ((sure[:1], sure[:1]), (sure[:1], sure[1:])):
            measure = Divergence(kept(torch.log_softmax(row, -1), tokens), torch.tensor([3]), 1.0, 0.5)
            parts, step = measure(other.clone(), slice(0, 1), True)
            assert step is not None and torch.isfinite(parts).all() and torch.isfinite(step).all()


@pytest.mark.parametrize("rows", [V - 3, V + 5])
def test_a_teacher_padded_to_another_number_of_rows(rows: int) -> None:
    theirs, their_head = drawn(K, TEACHER_W, seed=3), drawn(rows, TEACHER_W, seed=4)
    logits, target = drawn(K, V, seed=8), torch.zeros(K, dtype=torch.long)
    parts, step = Divergence(Computed(theirs, their_head, V, 2.0), target, 2.0, 1.0)(logits.clone(), slice(0, K), True)
    both = min(rows, V)
    log_p = torch.log_softmax(linear(theirs, their_head)[:, :both] / 2.0, -1)
    soft = kl_div(torch.log_softmax(logits / 2.0, -1)[:, :both], log_p, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(parts[0], 4.0 * soft)
    assert step is not None and torch.isfinite(step).all()


def test_parts_weigh_alike_or_are_refused() -> None:
    hidden, head = drawn(K, W, seed=1).requires_grad_(), drawn(V, W, seed=2)
    measure = Divergence(Computed(hidden.detach(), head, V, 2.0), torch.zeros(K, dtype=torch.long), 2.0, 0.5)
    parts = linear_loss(hidden, head, measure)
    with pytest.raises(ValueError, match="weigh alike"):
        (parts * torch.tensor([[1.0], [2.0]])).sum().backward()
