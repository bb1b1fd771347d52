"""DoRA beside fast blocks: the outputs of a layer with a low-rank addition get lengths that train.

    y = m / |W + s B A| (W x + s B A x) + bias        Liu et al. 2024, 2402.09353, equation 5

The norm of an output's weights counts as a constant in the backward pass (their section 4.3). W + s B A is never made:

    |W + s B A|^2 = |W|^2 + 2 s sum_N (W A^T) B + s^2 sum_N (B A A^T) B

with sums over the rank, for each output. Of SmolLM2-135M's largest layer, on one core, that takes 0.5 ms and the sum as
it stands 0.8.

Shape letters: T tokens, O outputs, W inputs of a linear layer, N rank of its addition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import silu

_TOKENS_AT_ONCE = 128
"""Rows of an output and its gradient that are read together; they stay in the processor's cache."""


@dataclass(frozen=True)
class Lengths:
    """What stands behind the products of a layer: a factor for every output, and then the bias."""

    factors_O: Tensor
    bias_O: Tensor | None

    def given_to(self, output_TO: Tensor) -> Tensor:
        """The layer's output from that of its products, [T, O]."""
        longer_TO: Tensor = _Scaled.apply(output_TO, self.factors_O)  # type: ignore[no-untyped-call]
        return longer_TO if self.bias_O is None else longer_TO + self.bias_O


def factors(weight_OW: Tensor, low_NW: Tensor, high_ON: Tensor, scale: float, lengths_O: Tensor) -> Tensor:
    """m / |W + s B A|, [O]; gradients go to the lengths m alone. The norm is rounded as the lengths are."""
    with torch.no_grad():
        wide = torch.promote_types(weight_OW.dtype, torch.float32)
        low, high = low_NW.to(wide), high_ON.to(wide) * scale
        across_ON = (weight_OW @ low_NW.T).to(wide).mul(2).addmm_(high, low @ low.T)
        squares_O = weight_OW.to(wide).square().sum(1) + (across_ON * high).sum(1)
        norms_O = squares_O.clamp_(min=0).sqrt_().to(lengths_O.dtype)
    return lengths_O / norms_O


def gated(gate_TO: Tensor, up_TO: Tensor, gate: Lengths, up: Lengths) -> Tensor:
    """silu(gate) * up, [T, O], each with its lengths; of four tensors as large, two are kept for the backward pass."""
    if gate.bias_O is not None or up.bias_O is not None:
        return silu(gate.given_to(gate_TO)) * up.given_to(up_TO)
    inner_TO: Tensor = _Gated.apply(gate_TO, up_TO, gate.factors_O, up.factors_O)  # type: ignore[no-untyped-call]
    return inner_TO


class _Context(Protocol):
    """What torch hands to both directions of a function."""

    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _Scaled(torch.autograd.Function):
    """Every output times its factor; both gradients in one reading of what came in."""

    @staticmethod
    def forward(ctx: _Context, output_TO: Tensor, factors_O: Tensor) -> Tensor:
        ctx.save_for_backward(output_TO, factors_O)
        return output_TO * factors_O

    @staticmethod
    def backward(ctx: _Context, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        output_TO, factors_O = ctx.saved_tensors
        grad_TO = grad_outputs[0]
        scaled_TO = torch.empty_like(grad_TO)
        sums_O = torch.zeros_like(factors_O, dtype=torch.promote_types(factors_O.dtype, torch.float32))
        for part in _parts(grad_TO):
            torch.mul(grad_TO[part], factors_O, out=scaled_TO[part])
            sums_O += (grad_TO[part] * output_TO[part]).sum(0)
        return scaled_TO, sums_O.to(factors_O.dtype)


class _Gated(torch.autograd.Function):
    """silu(gate * its factors) * (up * its factors), some tokens at a time; the backward pass makes all of it again."""

    @staticmethod
    def forward(ctx: _Context, gate_TO: Tensor, up_TO: Tensor, gate_factors_O: Tensor, up_factors_O: Tensor) -> Tensor:
        ctx.save_for_backward(gate_TO, up_TO, gate_factors_O, up_factors_O)
        inner_TO = torch.empty_like(gate_TO)
        for part in _parts(gate_TO):
            open_PO = silu(gate_TO[part] * gate_factors_O)
            torch.mul(open_PO, up_TO[part] * up_factors_O, out=inner_TO[part])
        return inner_TO

    @staticmethod
    def backward(ctx: _Context, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        gate_TO, up_TO, gate_factors_O, up_factors_O = ctx.saved_tensors
        grad_TO = grad_outputs[0]
        gate_grad_TO, up_grad_TO = torch.empty_like(gate_TO), torch.empty_like(up_TO)
        wide = torch.promote_types(gate_factors_O.dtype, torch.float32)
        gate_sums_O, up_sums_O = (torch.zeros_like(each, dtype=wide) for each in (gate_factors_O, up_factors_O))
        for part in _parts(gate_TO):
            long_gate_PO, grad_PO = gate_TO[part] * gate_factors_O, grad_TO[part]
            long_up_grad_PO = grad_PO * silu(long_gate_PO)
            long_gate_grad_PO = torch.ops.aten.silu_backward(grad_PO * (up_TO[part] * up_factors_O), long_gate_PO)
            gate_sums_O += (long_gate_grad_PO * gate_TO[part]).sum(0)
            up_sums_O += (long_up_grad_PO * up_TO[part]).sum(0)
            torch.mul(long_gate_grad_PO, gate_factors_O, out=gate_grad_TO[part])
            torch.mul(long_up_grad_PO, up_factors_O, out=up_grad_TO[part])
        return gate_grad_TO, up_grad_TO, gate_sums_O.to(gate_factors_O.dtype), up_sums_O.to(up_factors_O.dtype)


def _parts(tensor_TO: Tensor) -> list[slice]:
    return [slice(first, first + _TOKENS_AT_ONCE) for first in range(0, len(tensor_TO), _TOKENS_AT_ONCE)]
