"""A linear layer taken apart gives what the layer gives."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as LoraLinear
from torch import nn

from tunesmith.models import products
from tunesmith.models.products import Parts, Product, may_reorder, parts_of


def adapted(bias: bool, dtype: torch.dtype = torch.float32, low_dtype: torch.dtype | None = None) -> LoraLinear:
    """A layer with two adapters, both at work."""
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, lora_dropout=0.5)
    layer = LoraLinear(nn.Linear(16, 24, bias=bias), "first", config=config, r=3, lora_alpha=5)
    layer.update_layer("second", r=2, lora_alpha=7, config=config)
    layer.set_adapter(["first", "second"])
    layer.to(dtype)
    if low_dtype is not None:
        for name, parameter in layer.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(low_dtype)
    return layer.eval()


def apart(layer: nn.Module) -> Parts:
    parts = parts_of(layer)
    assert parts is not None
    return parts


@pytest.mark.parametrize("reorder", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 37])
@torch.inference_mode()
def test_one_layer_and_several(reorder: bool, bias: bool, rows: int) -> None:
    first, second = adapted(bias), nn.Linear(16, 8, bias=bias)
    first.lora_B["second"].weight.data.mul_(2)
    rows_TW = torch.randn(rows, 16)
    wanted = torch.cat([first(rows_TW), second(rows_TW)], dim=1)
    torch.testing.assert_close(Product(apart(first), reorder=reorder)(rows_TW), first(rows_TW), atol=1e-5, rtol=1e-5)
    order = torch.randperm(32)
    both = Product(apart(first), apart(second), reorder=reorder, order=order)
    torch.testing.assert_close(both(rows_TW), wanted[:, order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("low_dtype", [torch.bfloat16, torch.float32])
@torch.inference_mode()
def test_bfloat16_is_about_as_near_as_the_layer(low_dtype: torch.dtype) -> None:
    layer, exact = adapted(True, torch.bfloat16, low_dtype), adapted(True)
    exact.load_state_dict({name: each.float() for name, each in layer.state_dict().items()})
    rows_TW = torch.randn(64, 16).bfloat16()
    wanted = exact(rows_TW.float())
    found = Product(apart(layer), reorder=True)(rows_TW)
    assert found.dtype == torch.bfloat16
    off, theirs = ((each.float() - wanted).square().mean().sqrt() for each in (found, layer(rows_TW)))
    assert off < 2 * theirs


@torch.inference_mode()
def test_other_kinds_of_numbers_are_left_to_torch() -> None:
    layer = nn.Linear(16, 8).double()
    rows_TW = torch.randn(5, 16, dtype=torch.float64)
    torch.testing.assert_close(Product(apart(layer), reorder=True)(rows_TW), layer(rows_TW))


def test_how_much_may_stand_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [torch.zeros(16, 16), torch.zeros(16, 16)]
    monkeypatch.setattr(products, "REORDER_UP_TO", 2048)
    assert may_reorder(weights)
    monkeypatch.setattr(products, "REORDER_UP_TO", 2047)
    assert not may_reorder(weights)


def test_what_is_more_than_a_linear_layer() -> None:
    class Other(nn.Linear):
        pass

    assert parts_of(Other(4, 4)) is None
    assert parts_of(nn.Conv1d(4, 4, 1)) is None
    assert parts_of(None) is None
    layer = adapted(True)
    layer.merge()
    assert apart(layer).additions == ()
    layer._disable_adapters = True
    assert parts_of(layer) is None
