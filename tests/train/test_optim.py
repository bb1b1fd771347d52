"""Step sizes by hand, updates against torch's own optimizers, float32 masters, and state bit for bit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from tunesmith.core.errors import TunesmithError
from tunesmith.recipe.specs.train import TrainSpec
from tunesmith.train.optim import MasterOptimizer, step_size


def spec(**settings: object) -> TrainSpec:
    return TrainSpec.model_validate(settings)


def parameters(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    draw = torch.Generator().manual_seed(3)
    return {
        "matrix": nn.Parameter(torch.randn(4, 3, generator=draw).to(dtype)),
        "bias": nn.Parameter(torch.randn(4, generator=draw).to(dtype)),
    }


def gradients(steps: int, dtype: torch.dtype = torch.float32) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(4)
    return [
        {name: torch.randn(each.shape, generator=draw).to(dtype) for name, each in parameters().items()}
        for _ in range(steps)
    ]


def feed(optimizer: MasterOptimizer, held: dict[str, nn.Parameter], all_of: Sequence[dict[str, torch.Tensor]]) -> None:
    for each in all_of:
        for name, gradient in each.items():
            held[name].grad = gradient.clone()
        optimizer.collect()
        optimizer.step(0.01, 1e9)


# ----------------------------------------------------------------------------------------------- step size


def test_step_sizes_by_hand() -> None:
    cosine = [step_size(spec(warmup_ratio=0.2), 1.0, step, 10) for step in range(10)]
    expected = [0.5, 1.0] + [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert cosine == pytest.approx(expected, abs=1e-12)
    linear = [step_size(spec(warmup_ratio=0.2, lr_scheduler_type="linear"), 2.0, step, 10) for step in range(10)]
    assert linear == pytest.approx([1.0, 2.0, *(2 * (1 - k / 8) for k in range(8))])
    constant = {step_size(spec(warmup_ratio=0.0, lr_scheduler_type="constant"), 3.0, step, 10) for step in range(10)}
    assert constant == {3.0}


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("total", [1, 2, 3, 7, 1000])
def test_step_sizes_rise_once_and_never_leave_their_range(kind: str, total: int) -> None:
    for ratio in (0.0, 0.03, 0.5, 0.99):
        sizes = [step_size(spec(warmup_ratio=ratio, lr_scheduler_type=kind), 1.0, step, total) for step in range(total)]
        assert all(0 < size <= 1 for size in sizes)
        top = sizes.index(max(sizes))
        assert max(sizes) == 1.0 and sizes[:top] == sorted(sizes[:top])
        assert sizes[top:] == sorted(sizes[top:], reverse=True)


# ------------------------------------------------------------------------------------------------- updates


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_updates_are_those_of_torch_with_decay_on_matrices_alone(kind: str) -> None:
    held, wanted = parameters(), parameters()
    ours = MasterOptimizer(held, spec(optimizer=kind, weight_decay=0.1))
    groups = [
        {"params": [wanted["matrix"]], "weight_decay": 0.1},
        {"params": [wanted["bias"]], "weight_decay": 0.0},
    ]
    theirs: torch.optim.Optimizer = (
        torch.optim.AdamW(groups, lr=0.01) if kind == "adamw" else torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    )
    for each in gradients(5):
        feed(ours, held, [each])
        for name, gradient in each.items():
            wanted[name].grad = gradient.clone()
        theirs.step()
    for name in held:
        torch.testing.assert_close(held[name], wanted[name], rtol=1e-6, atol=1e-7)
        assert ours.masters[name] is held[name], "float32 weights are their own masters"


def test_the_gradient_is_clipped_to_its_norm_and_the_norm_before_is_reported() -> None:
    held, wanted = parameters(), parameters()
    ours = MasterOptimizer(held, spec(optimizer="sgd", weight_decay=0.0))
    gradient = gradients(1)[0]
    norm = math.sqrt(sum(float(each.square().sum()) for each in gradient.values()))
    for name, each in gradient.items():
        held[name].grad = each.clone()
    ours.collect()
    assert ours.step(0.5, 1.0) == pytest.approx(norm)
    for name, each in gradient.items():
        torch.testing.assert_close(held[name], wanted[name] - 0.5 * each / norm, rtol=1e-5, atol=1e-6)
        assert held[name].grad is None


def test_small_updates_to_bfloat16_weights_are_not_lost() -> None:
    held = {"weight": nn.Parameter(torch.ones(8, 2, dtype=torch.bfloat16))}
    ours = MasterOptimizer(held, spec(optimizer="sgd", weight_decay=0.0))
    for _ in range(100):
        held["weight"].grad = torch.full((8, 2), 1e-4, dtype=torch.bfloat16)
        ours.collect()
        assert held["weight"].grad is None
        ours.step(0.1, 1e9)
    moved = 1 - ours.masters["weight"][0, 0].item()
    assert moved > 5e-3 and ours.masters["weight"].dtype == torch.float32
    assert held["weight"][0, 0].item() == float(torch.tensor(1 - moved).to(torch.bfloat16)) < 1


def test_gradients_of_a_window_add_up_in_float32() -> None:
    held = {"weight": nn.Parameter(torch.zeros(1, 1, dtype=torch.bfloat16))}
    ours = MasterOptimizer(held, spec(optimizer="sgd", weight_decay=0.0))
    for gradient in (256.0, 1.0, 1.0, 1.0):  # bfloat16 has 8 bits: 256 + 1 is 256 there
        held["weight"].grad = torch.full((1, 1), gradient, dtype=torch.bfloat16)
        ours.collect()
    assert ours.step(1.0, 1e9) == 259.0 and ours.masters["weight"].item() == -259.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_gradient_moves_nothing_and_leaves_no_trace(bad: float) -> None:
    held = parameters()
    ours = MasterOptimizer(held, spec())
    feed(ours, held, gradients(2))
    before = {name: each.clone() for name, each in {**ours.masters, **ours.state()}.items()}
    for each in held.values():
        each.grad = torch.full_like(each, bad)
    ours.collect()
    assert not math.isfinite(ours.step(0.1, 1.0))
    after = {**ours.masters, **ours.state()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(each.grad is None for each in held.values())


# --------------------------------------------------------------------------------------------------- state


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimizer_goes_on_bit_for_bit(kind: str, dtype: torch.dtype) -> None:
    steps = gradients(6, dtype)
    unbroken, broken, again = parameters(dtype), parameters(dtype), parameters(dtype)
    feed(one := MasterOptimizer(unbroken, spec(optimizer=kind)), unbroken, steps)
    feed(first := MasterOptimizer(broken, spec(optimizer=kind)), broken, steps[:3])
    masters = {name: each.detach().clone() for name, each in first.masters.items()}
    state = {name: each.clone() for name, each in first.state().items()}
    with torch.no_grad():
        for each in again.values():
            each.zero_()
    second = MasterOptimizer(again, spec(optimizer=kind))
    second.restore(masters, state)
    assert all(torch.equal(again[name], broken[name]) for name in again), "the weights are rounded from the masters"
    feed(second, again, steps[3:])
    for name in unbroken:
        assert torch.equal(again[name], unbroken[name]) and torch.equal(second.masters[name], one.masters[name])
    assert second.state().keys() == one.state().keys()
    assert all(torch.equal(each, one.state()[name]) for name, each in second.state().items())


def test_state_of_another_training_is_refused() -> None:
    ours = MasterOptimizer(parameters(), spec())
    masters = {name: each.detach().clone() for name, each in ours.masters.items()}
    for wrong in ({"matrix": masters["matrix"]}, {**masters, "more": masters["bias"]}, {}):
        with pytest.raises(TunesmithError, match="state_differs"):
            ours.restore(wrong, {})
    with pytest.raises(TunesmithError) as error:
        ours.restore(masters, {"other/exp_avg": masters["bias"]})
    assert error.value.facts["what"] == "other/exp_avg"
    with pytest.raises(TunesmithError, match="state_differs"):
        ours.restore({**masters, "bias": torch.zeros(1)}, {})


def test_a_loss_that_is_no_number_changes_nothing_even_with_a_good_gradient() -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = MasterOptimizer({"weight": parameter}, TrainSpec())
    parameter.grad = torch.ones(2, 2)
    optimizer.collect()
    assert optimizer.step(0.1, 1.0, usable=False) == pytest.approx(2.0)
    assert torch.equal(parameter, torch.ones(2, 2)) and parameter.grad is None
