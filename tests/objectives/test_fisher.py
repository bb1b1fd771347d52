"""The Fisher diagonal against plain transformers row by row, and against the divergence that it stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fits import examples
from torch.nn.functional import kl_div
from transformers import AutoModelForCausalLM

from tunesmith.adapt.attach import attach
from tunesmith.adapt.base import named_trainable
from tunesmith.adapt.lora import additions_of
from tunesmith.models.load import load_model
from tunesmith.models.packed import Features, pack
from tunesmith.models.policy import Policy
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.objectives.fisher import fisher_diagonal
from tunesmith.recipe.specs.adapt import AdaptSpec, FullSpec, LoraSpec
from tunesmith.tasks.chat import ChatTask


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "base", spread=0.1)


def prepared(
    base: Path, spec: AdaptSpec, rows: int, dtype: torch.dtype = torch.float64
) -> tuple[Policy, list[Features], dict[str, object]]:
    loaded = load_model(base, dtype=dtype)
    task = ChatTask(loaded.tokenizer, loaded.end_token_ids, 512)
    policy = Policy(loaded.model)
    attached = attach(policy, spec, seed=1, base_name="tiny")
    arguments = {
        "pack": pack,
        "moving": named_trainable(policy, attached.trainable),
        "additions": additions_of(policy, attached),
    }
    return policy, [task.encode(each).features for each in examples(rows)], arguments


def reference(base: Path, rows: list[Features]) -> dict[str, torch.Tensor]:
    """Squared gradients of each row's log-likelihood by autograd on the model as transformers has it."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    sums = {name: torch.zeros_like(each) for name, each in model.named_parameters()}
    tokens = 0
    for row in rows:
        ids = torch.tensor([row.token_ids])
        weights = torch.tensor(row.weights[1:], dtype=torch.float64)
        shares = torch.log_softmax(model(ids).logits[0, :-1], dim=-1)
        model.zero_grad()
        (shares.gather(1, ids[0, 1:, None])[:, 0] * weights).sum().backward()
        tokens += int((weights != 0).sum())
        for name, each in model.named_parameters():
            if each.grad is not None:
                sums[name] += each.grad**2
    return {name: each / tokens for name, each in sums.items()}


def test_observed_labels_give_the_squares_of_each_rows_gradient(base: Path) -> None:
    policy, rows, arguments = prepared(base, FullSpec(), 5)
    wanted = reference(base, rows)
    found = fisher_diagonal(policy, rows, labels="observed", seed=1, **arguments)  # type: ignore[arg-type]
    assert found.keys() == {f"model.{name}" for name in wanted}
    for name, each in wanted.items():
        torch.testing.assert_close(found[f"model.{name}"], each, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("start", "dtype"), [("default", torch.float64), ("pissa", torch.float32)])
def test_an_addition_is_measured_in_the_weight_that_it_moves(base: Path, start: str, dtype: torch.dtype) -> None:
    spec = LoraSpec(rank=4, init_lora_weights=start)  # type: ignore[arg-type]
    policy, rows, arguments = prepared(base, spec, 5, dtype)
    wanted = reference(base, rows)
    found = fisher_diagonal(policy, rows, labels="observed", seed=1, **arguments)  # type: ignore[arg-type]
    assert len(found) == len(arguments["additions"])  # type: ignore[arg-type]
    for module, each in found.items():
        name = module.removeprefix("model.base_model.model.").removeprefix("model.")
        (reference_name,) = (key for key in wanted if key.removesuffix(".weight").endswith(name))
        expected = wanted[reference_name]
        distance = (each - expected).norm() / expected.norm()
        assert distance < (1e-9 if dtype is torch.float64 else 1e-4), module
    assert all(each.grad is None for each in arguments["moving"].values()), "nothing is left behind"  # type: ignore[attr-defined]


def test_no_gradient_reaches_a_at_the_start_so_its_own_fisher_would_hold_nothing(base: Path) -> None:
    policy, rows, arguments = prepared(base, LoraSpec(rank=4), 3)
    (-policy(pack(rows)).sum()).backward()
    moving: dict[str, torch.nn.Parameter] = arguments["moving"]  # type: ignore[assignment]
    reached = {name: bool(each.grad is not None and each.grad.any()) for name, each in moving.items()}
    assert not any(reached[name] for name in reached if ".lora_A." in name)
    assert all(reached[name] for name in reached if ".lora_B." in name)


def test_sampled_labels_foretell_the_divergence_of_a_small_move(base: Path) -> None:
    policy, rows, arguments = prepared(base, FullSpec(), 12)
    many = rows * 25
    fisher = fisher_diagonal(policy, many, labels="sampled", seed=3, **arguments)  # type: ignore[arg-type]
    name = "model.model.layers.0.mlp.down_proj.weight"
    place = int(fisher[name].argmax())
    batch = pack(rows)
    policy.eval()
    with torch.no_grad():
        before = torch.log_softmax(policy.logits(batch).double(), -1)
        policy.get_parameter(name).view(-1)[place] += 1e-2
        after = torch.log_softmax(policy.logits(batch).double(), -1)
    divergence = float(kl_div(after, before, reduction="batchmean", log_target=True))
    assert 0.5 * float(fisher[name].view(-1)[place]) * 1e-4 == pytest.approx(divergence, rel=0.3)


def test_the_draws_are_those_of_the_seed(base: Path) -> None:
    policy, rows, arguments = prepared(base, LoraSpec(rank=2), 2)
    one, same, other = (
        fisher_diagonal(policy, rows, labels="sampled", seed=seed, **arguments)  # type: ignore[arg-type]
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
