"""The routers' balance loss: a figure of a whole window, however the window is cut and whatever its rows share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fits import local, make_job
from router_choices import watch_choices
from torch import Tensor

from tunesmith.models.experts import balance, watching_routers
from tunesmith.models.packed import Features, Packed, pack
from tunesmith.models.tiny import tiny_chat_model, tiny_moe_model
from tunesmith.objectives.balance import BALANCE, Balanced
from tunesmith.objectives.supervised import Supervised
from tunesmith.recipe.specs.objectives import SupervisedSpec
from tunesmith.train.look_ahead import WindowTerm
from tunesmith.train.loop import fit

ROUTED = {"kind": "experts", "experts": [1, 2], "router": True}
MIXED = {"kind": "lora-experts", "new_experts": 3, "rank": 2}
HEAD = tuple(range(10, 40))
"""What all rows begin with."""


def rows(count: int) -> list[Features]:
    draw = torch.Generator().manual_seed(4)
    found = []
    for number in range(count):
        own = tuple(torch.randint(3, 200, (5 + number,), generator=draw).tolist())
        found.append(Features(number, HEAD + own, (0.0,) * (len(HEAD) + 2) + (1.0,) * (len(own) - 2)))
    return found


def plainly(policy: torch.nn.Module, batch: Packed) -> Tensor:
    """The mean over blocks of `balance` over rows that share nothing."""
    said: dict[int, tuple[Tensor, Tensor]] = {}
    with watching_routers(policy, lambda layer, logits, choices: said.update({layer: (logits, choices)})):
        policy(batch)
    return torch.stack([balance(*each) for each in said.values()]).mean()


@pytest.mark.parametrize("name", ["moe", "moe, virtual tokens", "mixture"])
def test_parts_of_a_window_add_up_to_the_whole(name: str, tmp_path: Path) -> None:
    base = tiny_chat_model(tmp_path / "b", spread=0.1) if name == "mixture" else tiny_moe_model(tmp_path / "m")
    adapt = MIXED if name == "mixture" else {"kind": "prompt", "num_virtual_tokens": 3} if "virtual" in name else ROUTED
    # torch multiplies groups of experts in float32 at most; norms of plain blocks and shares of routers are float32 too
    dtype, near = (torch.float32, 1e-4) if "virtual" in name else (torch.float64, 1e-6)
    job = make_job(base, tmp_path / "fit", local(), adapt=adapt, settings={"blocks": "plain"}, dtype=dtype)
    policy, items = job.policy, rows(6)
    moving = [each for each in policy.parameters() if each.requires_grad]
    judge = Balanced(Supervised(SupervisedSpec()), 0.7)
    assert isinstance(judge, WindowTerm)

    def term(parts: list[list[Features]], share: bool) -> tuple[Tensor, list[Tensor]]:
        batches = [pack(each, share=share) for each in parts]
        seen = [judge.look(policy, batch) for batch in batches]
        judge.know(slice(0, len(seen)), *(torch.cat(found) for found in zip(*seen, strict=True)))
        total = sum(judge.loss(policy, batch)[BALANCE] for batch in batches) / sum(
            judge.count(batch)[BALANCE] for batch in batches
        )
        assert isinstance(total, Tensor)
        return total.detach(), list(torch.autograd.grad(total, moving, allow_unused=True, materialize_grads=True))

    whole = pack(items, share=False)
    if "virtual" not in name:  # which a batch without sharing reads once all the same
        torch.testing.assert_close(term([items], share=False)[0], 0.7 * plainly(policy, whole), rtol=1e-6, atol=0)
    wanted, gradients = term([items], share=False)
    assert any(each.abs().max() > 0 for each in gradients)
    for parts in ([items], [items[:4], items[4:]], [[each] for each in items]):
        for share in (True, False):
            found, others = term(parts, share)
            torch.testing.assert_close(found, wanted, rtol=near, atol=0)
            for each, other in zip(gradients, others, strict=True):
                assert (other - each).norm() <= near * each.norm().clamp_min(1e-9)
    judge.begin(0.0)
    alone = judge.loss(policy, whole)[BALANCE] / judge.count(whole)[BALANCE]
    torch.testing.assert_close(alone.detach(), wanted, rtol=near, atol=0)


def test_tokens_stand_for_the_rows_that_share_them() -> None:
    items = rows(3)
    shared, apart = pack(items), pack(items, share=False)
    assert shared.num_tokens < apart.num_tokens
    assert int(shared.rows_by_token().sum()) == apart.num_tokens
    assert set(shared.rows_by_token().tolist()) == {1, 3} and set(apart.rows_by_token().tolist()) == {1}
    repeated = replace(items[0], weights=(0.0,) * len(items[0].weights))
    assert pack([repeated]).rows_by_token().sum() == 0, "a rank repeats it to have something to compute"


def test_with_dropout_the_window_is_read_as_it_is_run(tmp_path: Path) -> None:
    """Choices depend on what is dropped: what the window was told is what its passes then do."""
    base = tiny_moe_model(tmp_path / "m")
    job = make_job(
        base, tmp_path / "fit", local(),
        adapt={"kind": "lora", "rank": 2, "lora_dropout": 0.5, "init_lora_weights": "gaussian"},
        settings={"batch_size": 2, "gradient_accumulation_steps": 3, "epochs": 1.0},
        add_ons={"penalties": {"router_balance": 0.5}}, rows=12,
    )  # fmt: skip
    chosen = watch_choices(job)
    fit(job, until=2)
    assert chosen["look"] == chosen["loss"] and len(chosen["look"]) == 6
    assert chosen["look"][0] != chosen["look"][1]
