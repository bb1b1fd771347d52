"""Linear layers whose weights stand in 4 or 8 bits and never move: the base under QLoRA.

    nf4    16 levels for blocks of 64 numbers (Dettmers et al. 2023, 2305.14314), see nf4.py
    int8   round(127 W / m) for every output's row, m its largest magnitude (Dettmers et al. 2022, 2208.07339)

The weight is made dense anew wherever it is needed, forward and backward, and let go at once. A layer holds nothing
but codes and statistics, and nothing that happens to a module changes them: there is no other form for evaluation, and
the statistics are kept as bytes, so that casting the module to another number format leaves them alone. bitsandbytes'
own 4-bit layer is not used: on CPUs with bfloat16 instructions one evaluation pass brings its codes into another order
for good, so that weights read back are wrong and no gradient passes any more (0.50; a test shows it).

Shape letters: T tokens, W inputs, O outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from tunesmith.core.errors import TunesmithError
from tunesmith.models import nf4
from tunesmith.models.sites import layer_of
from tunesmith.recipe.specs.model import Quantize

Form = Literal["nf4", "int8"]
_PARTS: dict[Form, tuple[str, ...]] = {"nf4": ("codes", "magnitudes", "scales"), "int8": ("codes", "scales")}
"""Buffers of a layer; the last one holds float32 numbers as bytes."""


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight [O, W] in codes, and the number format that it is computed with."""

    form: Form
    shape: torch.Size
    dtype: torch.dtype
    parts: tuple[Tensor, ...]

    def dense(self) -> Tensor:
        """The weight itself, made anew, [O, W]."""
        if self.form == "nf4":
            codes, magnitudes, scales = self.parts
            return nf4.decode(codes, magnitudes, scales, self.shape, self.dtype)
        codes_OW, scales_O = self.parts
        wide = torch.promote_types(self.dtype, torch.float32)
        return codes_OW.to(wide).mul_(scales_O[:, None]).to(self.dtype)


def _int8_codes(weight_OW: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [O, W] int8, and what one step of them is worth in each row, [O] float32; of a row of zeros, zero."""
    wide_OW = weight_OW.detach().float()
    largest_O = wide_OW.abs().amax(dim=1)
    steps_O = torch.where(largest_O > 0, 127 / largest_O, 0)
    return (wide_OW * steps_O[:, None]).round().to(torch.int8), largest_O / 127


class _Context(Protocol):
    """What torch hands to both directions of a function."""

    needs_input_grad: tuple[bool, ...]
    weight: QuantizedWeight


class _FrozenProduct(torch.autograd.Function):
    """x W^T + b, which keeps the codes of W for the backward pass and not W."""

    @staticmethod
    def forward(ctx: _Context, input_TW: Tensor, weight: QuantizedWeight, bias_O: Tensor | None) -> Tensor:
        ctx.weight = weight
        return linear(input_TW, weight.dense(), bias_O)

    @staticmethod
    def backward(ctx: _Context, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_TO = grad_outputs[0]
        needs_input, _, needs_bias = ctx.needs_input_grad
        grad_TW = grad_TO @ ctx.weight.dense() if needs_input else None
        return grad_TW, None, grad_TO.flatten(0, -2).sum(0) if needs_bias else None


def product(input_TW: Tensor, weight: Tensor | QuantizedWeight, bias_O: Tensor | None) -> Tensor:
    """x W^T + b for a weight as it is held; one in codes is not kept dense for the backward pass."""
    if isinstance(weight, Tensor):
        return linear(input_TW, weight, bias_O)
    output_TO: Tensor = _FrozenProduct.apply(input_TW, weight, bias_O)  # type: ignore[no-untyped-call]
    return output_TO


class QuantizedLinear(nn.Linear):
    """A linear layer with a frozen weight in codes; its bias is an ordinary parameter.

    Args:
        layer: whose weight and bias are taken; it is left as it is.
        form: of the codes.

    Errors: models.odd_weight, models.bitsandbytes_missing.
    """

    def __init__(self, layer: nn.Linear, form: Form) -> None:
        nn.Module.__init__(self)  # Linear's own would make a weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        if form == "nf4" and layer.weight.numel() % 2:
            raise TunesmithError("models.odd_weight", outputs=self.out_features, inputs=self.in_features)
        self.form: Form = form
        self.register_parameter("bias", layer.bias)
        self._hold(layer.weight)
        self._own: Tensor | None = None
        # Empty: it goes where the module is cast to, and so says in which format the weight is wanted.
        self.register_buffer("wanted", torch.empty(0, dtype=layer.weight.dtype), persistent=False)

    def _hold(self, weight_OW: Tensor) -> None:
        """Put the codes of a weight in place."""
        parts = nf4.encode(weight_OW) if self.form == "nf4" else _int8_codes(weight_OW)
        for name, part in zip(_PARTS[self.form], parts, strict=True):
            codes = part.view(torch.uint8) if part.dtype == torch.float32 else part
            self.register_buffer(name, codes.to(weight_OW.device))

    def give_up(self, part_OW: Tensor) -> None:
        """Take a part out of the weight, for another layer to add; what is left stands in codes of its own."""
        self._hold(self.weight.float() - part_OW.float())

    @property
    def packed(self) -> QuantizedWeight:
        """The weight in codes, where and in the number format that the module is now."""
        parts = [self.get_buffer(name) for name in _PARTS[self.form]]
        parts[-1] = parts[-1].view(torch.float32)
        dtype = self.get_buffer("wanted").dtype
        return QuantizedWeight(self.form, torch.Size((self.out_features, self.in_features)), dtype, tuple(parts))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # what others read of a linear layer
        """The weight, made anew at every call, [O, W]; writing to it changes nothing."""
        if self._own is None:
            return self.packed.dense()
        wanted = self.get_buffer("wanted")
        return self._own.to(wanted.device, wanted.dtype, copy=True)

    def forward(self, input: Tensor) -> Tensor:
        """x W^T + b."""
        return product(input, self.packed, self.bias)


@contextmanager
def own_weights(model: nn.Module, dense: nn.Module) -> Iterator[None]:
    """Inside the block the quantised layers of a model say the weights that were quantised, which another form of the
    model still has, and not what the codes stand for. They compute with the codes all the same."""
    layers = quantized_layers(model)
    for name, layer in layers.items():
        layer._own = dense.get_parameter(f"{name}.weight").detach()
    try:
        yield
    finally:
        for layer in layers.values():
            layer._own = None


def weight_of(layer: nn.Linear) -> Tensor | QuantizedWeight:
    """A linear layer's weight as it is held."""
    return layer.packed if isinstance(layer, QuantizedLinear) else layer.weight


def quantize_blocks(model: nn.Module, form: Form) -> int:
    """Quantise every linear layer of the blocks in place, one after the other; returns how many.

    Embedding, head, norms and biases stay as they are, and so do experts that are no linear layers.
    Errors: models.nothing_to_quantize, models.odd_weight, models.bitsandbytes_missing.
    """
    named = dict(model.named_modules())
    found = [name for name, each in named.items() if type(each) is nn.Linear and layer_of(f"{name}.") is not None]
    for name in found:
        parent, _, own = name.rpartition(".")
        setattr(named[parent], own, QuantizedLinear(model.get_submodule(name), form))  # type: ignore[arg-type]
        del named[name]  # with its dense weight
    if not found:
        raise TunesmithError("models.nothing_to_quantize")
    return len(found)


def form_of(model: nn.Module) -> Quantize:
    """How the linear layers of a model's blocks are held."""
    return next((layer.form for layer in quantized_layers(model).values()), "none")


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """The quantised layers by name."""
    return {name: each for name, each in model.named_modules() if isinstance(each, QuantizedLinear)}


def dequantized_weights(model: nn.Module) -> dict[str, Tensor]:
    """The dense weights that a quantised model computes with, by the names that they have in its unquantised form."""
    return {f"{name}.weight": layer.weight for name, layer in quantized_layers(model).items()}


def held_numbers(module: nn.Module) -> int:
    """Numbers of the weights that stand in codes."""
    return sum(layer.in_features * layer.out_features for layer in quantized_layers(module).values())
