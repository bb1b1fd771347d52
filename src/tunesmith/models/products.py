"""Linear layers taken apart, so that a pass can use them in fewer and faster products.

Shape letters: T tokens, W width of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn.functional import linear

from tunesmith.models.bottleneck import Bottleneck, WithBottleneck
from tunesmith.models.quantized import QuantizedLinear

REORDER_UP_TO = 2 << 30
"""Bytes of weights that may stand twice in memory. The 150 products of SmolLM2-135M's blocks with 1, 32 and 2,048 rows
took 9.9, 18 and 500 ms in bfloat16 (26, 57 and 2,270 in float32), in oneDNN's order 6.8, 14 and 490 (13, 25 and 1,000);
bringing them into that order takes 60. In float32 half of the gain is oneDNN's own: torch asks MKL, which on AMD does
not use AVX-512."""
_ROWS_EXPECTED = 32


@dataclass(frozen=True)
class Parts:
    """A linear layer: weight, bias, A and B (times its factor) of each addition B A, and a bottleneck after it."""

    weight: Tensor
    bias: Tensor | None
    additions: tuple[tuple[Tensor, Tensor], ...] = ()
    after: Bottleneck | None = None


def _is_linear(layer: object) -> TypeGuard[nn.Linear]:
    """Whether a layer is a plain linear one, its weight in codes or not."""
    return type(layer) in (nn.Linear, QuantizedLinear)


def parts_of(layer: object) -> Parts | None:
    """What a linear layer consists of, or None if it is more than that. A weight in codes is made dense."""
    if _is_linear(layer):
        return Parts(layer.weight, layer.bias)
    if type(layer) is WithBottleneck:
        base_layer = parts_of(layer.base_layer)
        return base_layer and replace(base_layer, after=layer.adapter)
    if type(layer) is not LoraLinear or not _is_linear(layer.base_layer):
        return None
    base, weight = layer.base_layer, layer.base_layer.weight
    if layer.disable_adapters or layer.merged:
        return None if layer.disable_adapters and layer.merged else Parts(weight, base.bias)
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if any(name in layer.lora_variant or layer.lora_B[name].bias is not None for name in names):
        return None
    kind = weight.dtype
    downs = [layer.lora_A[name].get_parameter("weight").to(kind) for name in names]
    ups = [(layer.lora_B[name].get_parameter("weight") * layer.scaling[name]).to(kind) for name in names]
    return Parts(weight, base.bias, tuple(zip(downs, ups, strict=True)))


class Product:
    """x W^T + b with its additions, for one layer or for several with the same input.

    Args:
        layers: their outputs stand side by side.
        reorder: keep a copy of the weight in the order in which oneDNN reads it, where oneDNN makes the product.
        order: in which order the outputs are wanted; needed where there are several layers.
    """

    def __init__(self, *layers: Parts, reorder: bool, order: Tensor | None = None) -> None:
        self._weight, self._bias = layers[0].weight, layers[0].bias
        self._after = layers[0].after
        if order is not None:
            self._weight = torch.cat([each.weight for each in layers])[order]
            if self._bias is not None:
                self._bias = torch.cat([each.bias for each in layers if each.bias is not None])[order]
        downs = [down for each in layers for down, _ in each.additions]
        self._down = torch.cat(downs) if downs else None
        ups = [torch.cat([each.weight[:, :0], *(up for _, up in each.additions)], dim=1) for each in layers]
        self._up = (torch.block_diag(*ups) if order is None else torch.block_diag(*ups)[order]).t()
        reorder = reorder and onednn_knows(self._weight)
        self._by_onednn = reorder or (self._weight.dtype == torch.float32 and onednn_knows(self._weight))
        if reorder:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, _ROWS_EXPECTED)

    def __call__(self, input_TW: Tensor) -> Tensor:
        """The outputs side by side, [T, outputs]."""
        output: Tensor
        if self._by_onednn:
            output = torch.ops.mkldnn._linear_pointwise(input_TW, self._weight, self._bias, "none", [], "")
        else:
            output = linear(input_TW, self._weight, self._bias)
        if self._down is not None:
            output.addmm_(linear(input_TW, self._down), self._up)
        return output if self._after is None else self._after.added_to(output, output)


def may_reorder(weights: Sequence[Tensor]) -> bool:
    """Whether so many weights may stand in memory twice for the sake of speed."""
    return sum(weight.nbytes for weight in weights) <= REORDER_UP_TO


def onednn_knows(weight: Tensor) -> bool:
    """Whether oneDNN, where it is, makes products of this kind on this device."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
