"""Packed batches against plain transformers, one row at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import Gemma2Config, Gemma2ForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from tunesmith.core.errors import TunesmithError
from tunesmith.models.linear_loss import linear_cross_entropy
from tunesmith.models.load import load_model
from tunesmith.models.packed import Features, pack
from tunesmith.models.policy import Policy
from tunesmith.models.tiny import tiny_chat_model

SYSTEM = tuple(range(20, 50))


def row(number: int, tokens: tuple[int, ...], learned: int) -> Features:
    return Features(number, tokens, (0.0,) * (len(tokens) - learned) + (1.0,) * learned)


ROWS = [
    row(0, (*SYSTEM, 60, 61, 62, 63, 64), 3),
    row(1, (*SYSTEM, 70, 71, 72), 2),
    row(2, (9, 8, 7, 6, 5, 4, 3), 4),
    row(3, (*SYSTEM, 60, 61, 80, 81, 82, 83, 84, 85), 4),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "model", spread=0.2)


def plain_losses(folder: Path, dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.Tensor]:
    model = load_model(folder, dtype=dtype, device=torch.device("cpu")).model
    losses = []
    for item in ROWS:
        ids = torch.tensor([item.token_ids])
        learned = int(sum(item.weights))
        logits = model(input_ids=ids).logits[0, -learned - 1 : -1]
        losses.append(cross_entropy(logits, ids[0, -learned:], reduction="none"))
    total = torch.cat(losses).sum()
    total.backward()
    return [each.detach() for each in losses], model.model.layers[0].self_attn.k_proj.weight.grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_packed_and_shared_rows_have_the_losses_and_gradients_of_single_rows(folder: Path, dtype: torch.dtype) -> None:
    expected, expected_gradient = plain_losses(folder, dtype)
    model = load_model(folder, dtype=dtype, device=torch.device("cpu")).model
    batch = pack(ROWS)
    assert batch.parent.tolist() == [-1, 0, 0, 0, -1], "three rows share their system prompt"
    policy = Policy(model)
    losses = policy(batch)
    order = [0, 1, 3, 2]
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    wanted = torch.cat([expected[place] for place in order])
    torch.testing.assert_close(losses, wanted, rtol=tolerance, atol=tolerance)
    losses.sum().backward()
    gradient = policy.model.model.layers[0].self_attn.k_proj.weight.grad
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


def test_a_learned_beginning_is_never_shared() -> None:
    learned = [Features(n, tuple(range(40)), (1.0,) * 40) for n in range(2)]
    assert pack(learned).parent.tolist() == [-1, -1]


def test_rows_are_grouped_by_what_saves_most() -> None:
    passages = [tuple(range(100 * n, 100 * n + 60)) for n in (1, 2)]
    rows = [row(n, (*SYSTEM, *passages[n % 2], 900 + n, 5), 1) for n in range(6)]
    batch = pack(rows)
    assert batch.num_tokens == 2 * 90 + 6 * 2, "each passage once, with the system prompt before it"
    assert sorted(batch.row[batch.row >= 0].tolist()) == list(range(6))
    alone = row(6, (*SYSTEM, 7, 8), 1)
    assert pack([*rows, alone]).num_tokens == batch.num_tokens + 32, "one parent a row: the odd one stands alone"


def test_padded_batches_are_refused(folder: Path) -> None:
    policy = Policy(load_model(folder, dtype=torch.float32, device=torch.device("cpu")).model)
    with pytest.raises(TunesmithError, match="packed_only"):
        policy.model(input_ids=torch.tensor([[1, 2], [3, 4]]), attention_mask=torch.tensor([[0, 1], [1, 1]]))


_SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (lambda: Gemma2ForCausalLM(Gemma2Config(**_SMALL)), "packed.other_head"),
        (lambda: Gemma2ForCausalLM(Gemma2Config(**_SMALL, final_logit_softcapping=None)), "packed.other_attention"),
        (lambda: MistralForCausalLM(MistralConfig(**_SMALL, sliding_window=8)), "packed.window_short"),
    ],
)
def test_what_the_packed_form_cannot_do_is_refused(model: Callable[[], PreTrainedModel], code: str) -> None:
    row = Features(0, tuple(range(1, 21)), (0.0,) * 2 + (1.0,) * 18)
    with pytest.raises(TunesmithError, match=code):
        Policy(model())(pack([row]))


def test_a_window_longer_than_every_document_changes_nothing() -> None:
    row = Features(0, tuple(range(1, 21)), (0.0,) * 2 + (1.0,) * 18)
    model = MistralForCausalLM(MistralConfig(**_SMALL, sliding_window=32))
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([row.token_ids])).logits[0].log_softmax(-1)
        losses_K = Policy(model)(pack([row]))
    targets = torch.tensor(row.token_ids[2:])
    torch.testing.assert_close(losses_K, -wanted[1:-1].gather(1, targets[:, None])[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("head_trains", [False, True])
def test_linear_cross_entropy_equals_torch(
    smoothing: float, head_trains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.models.linear_loss.CHUNK", 3)
    torch.manual_seed(0)
    target_K, scale_K = torch.randint(11, (7,)), torch.rand(7)
    hidden_KW = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    weight_VW = torch.randn(11, 5, dtype=torch.float64, requires_grad=head_trains)
    expected = cross_entropy(hidden_KW @ weight_VW.T, target_K, reduction="none", label_smoothing=smoothing)
    wanted = torch.autograd.grad((expected * scale_K).sum(), [hidden_KW, weight_VW] if head_trains else [hidden_KW])
    losses = linear_cross_entropy(hidden_KW, weight_VW, target_K, smoothing)
    found = torch.autograd.grad((losses * scale_K).sum(), [hidden_KW, weight_VW] if head_trains else [hidden_KW])
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
