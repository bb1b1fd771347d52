"""The work of a decoder block in four functions that keep little for the backward pass and touch memory seldom.

Each computes what the plain modules compute, with float32 inside the norms; each makes its own gradients, so that
normed inputs and gate products are made again instead of kept, sums of gradients happen inside the matrix products,
and the small products of a low-rank addition run in place on the large ones.

    normed_projections   norm(x) through several linear layers at once (query, key, value)
    rotate               rotary positions (Su et al. 2021, 2104.09864), into the layout that the attention wants
    add_projection       residual + linear(x)
    gated_mlp            x + down(silu(gate(norm(x))) * up(norm(x)))

Shape letters: T tokens, W width, O outputs of a linear layer, N rank of a low-rank addition, G key/value heads,
R query heads that share a key head, S size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import silu

from tunesmith.models.dora import Lengths
from tunesmith.models.quantized import QuantizedWeight

_Fixed = tuple[float, QuantizedWeight | None]
"""Of a projection: what is no tensor of its own, its scale and a weight in codes. Kept as it is for the backward pass,
where the weight is made dense again."""


class _Context(Protocol):
    """What torch hands to both directions of a function."""

    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]
    fixed: tuple[_Fixed, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


@dataclass(frozen=True)
class Projection:
    """A linear layer and its low-rank addition, if it has one: x W^T + bias + scale (x low^T) high^T."""

    weight: Tensor | QuantizedWeight  # [O, W]
    bias: Tensor | None  # [O]
    low: Tensor | None = None  # [N, W]
    high: Tensor | None = None  # [O, N]
    scale: float = 1.0
    lengths: Lengths | None = None  # of DoRA; the functions of this file know them not: `with_lengths`

    @property
    def dense(self) -> Tensor:
        """The weight, [O, W]; one in codes is made anew."""
        return self.weight.dense() if isinstance(self.weight, QuantizedWeight) else self.weight

    def tensors(self) -> tuple[Tensor | None, ...]:
        """As arguments of an autograd function, four a projection."""
        return None if isinstance(self.weight, QuantizedWeight) else self.weight, self.bias, self.low, self.high

    @property
    def fixed(self) -> _Fixed:
        """The rest of them."""
        return self.scale, self.weight if isinstance(self.weight, QuantizedWeight) else None


def _from_tensors(tensors: Sequence[Tensor | None], fixed: Sequence[_Fixed]) -> list[Projection]:
    parts = [tensors[first : first + 4] for first in range(0, len(tensors), 4)]
    found = []
    for (dense, bias, low, high), (scale, packed) in zip(parts, fixed, strict=True):
        weight = dense if packed is None else packed
        if weight is not None:
            found.append(Projection(weight, bias, low, high, scale))
    return found


def _project_all(input_TW: Tensor, projections: Sequence[Projection]) -> list[tuple[Tensor, Tensor | None]]:
    """Of each projection of one input: output [T, O], and the scaled low-rank coordinates [T, N] kept for later.

    The low-rank parts read the input together: three products of rank 16 take three times as long as one of rank 48.
    """
    lows = [each.low for each in projections if each.low is not None]
    coordinates = iter((input_TW @ _stacked(lows).T).split([low.shape[0] for low in lows], dim=1) if lows else ())
    pairs: list[tuple[Tensor, Tensor | None]] = []
    for projection in projections:
        output_TO = input_TW @ projection.dense.T
        if projection.bias is not None:
            output_TO += projection.bias
        if projection.high is None:
            pairs.append((output_TO, None))
            continue
        low_TN = next(coordinates).mul(projection.scale)
        pairs.append((output_TO.addmm_(low_TN, projection.high.T), low_TN))
    return pairs


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _low_gradients(grads: Sequence[Tensor], projections: Sequence[Projection]) -> Tensor | None:
    """Gradients towards the low-rank coordinates of all projections, side by side."""
    parts = [
        (grad_TO @ each.high).mul_(each.scale)
        for grad_TO, each in zip(grads, projections, strict=True)
        if each.high is not None
    ]
    return torch.cat(parts, dim=1) if parts else None


def _input_gradient(grads: Sequence[Tensor], low_grads_TN: Tensor | None, projections: Sequence[Projection]) -> Tensor:
    """Gradient towards the common input, [T, W]; the products add up in place."""
    grad_TW = grads[0] @ projections[0].dense
    for grad_TO, each in zip(grads[1:], projections[1:], strict=True):
        grad_TW.addmm_(grad_TO, each.dense)
    if low_grads_TN is not None:
        grad_TW.addmm_(low_grads_TN, _stacked([each.low for each in projections if each.low is not None]))
    return grad_TW


def _parameter_gradients(
    grads: Sequence[Tensor],
    input_TW: Tensor,
    lows: Sequence[Tensor | None],
    low_grads_TN: Tensor | None,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of weight, bias, low and high of each projection in turn, None where `needs` says so."""
    low_weights = iter(())
    if low_grads_TN is not None:
        ranks = [low_TN.shape[1] for low_TN in lows if low_TN is not None]
        low_weights = iter((low_grads_TN.T @ input_TW).split(ranks))
    gradients: list[Tensor | None] = []
    for place, (grad_TO, low_TN) in enumerate(zip(grads, lows, strict=True)):
        needs_weight, needs_bias, needs_low, needs_high = needs[4 * place : 4 * place + 4]
        low_NW = next(low_weights) if low_TN is not None else None
        gradients.append(grad_TO.T @ input_TW if needs_weight else None)
        gradients.append(grad_TO.sum(0) if needs_bias else None)
        gradients.append(low_NW if needs_low else None)
        gradients.append(grad_TO.T @ low_TN if needs_high and low_TN is not None else None)
    return gradients


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _norm(input_TW: Tensor, weight_W: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Root mean square norm (Zhang and Sennrich 2019, 1910.07467) and 1 / root mean square, [T, 1]."""
    wide_TW = _wide(input_TW)
    inverse_T1 = (wide_TW.square().mean(-1, keepdim=True) + eps).rsqrt_()
    return _normed(input_TW, inverse_T1, weight_W), inverse_T1


def _normed(input_TW: Tensor, inverse_T1: Tensor, weight_W: Tensor) -> Tensor:
    return weight_W * (_wide(input_TW) * inverse_T1).to(input_TW.dtype)


def _norm_backward(
    grad_TW: Tensor, input_TW: Tensor, inverse_T1: Tensor, weight_W: Tensor, needs_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients towards the norm's input, in float32 or wider, and its weight.

    With u = x / rms and g = grad * weight: dx = (g - u mean(g u)) / rms.
    """
    unit_TW = _wide(input_TW) * inverse_T1
    wide_TW = _wide(grad_TW)
    weight_grad_W = (wide_TW * unit_TW).sum(0).to(weight_W.dtype) if needs_weight else None
    gradient_TW = wide_TW * weight_W
    mean_T1 = (gradient_TW * unit_TW).mean(-1, keepdim=True)
    return gradient_TW.addcmul_(unit_TW, mean_T1, value=-1).mul_(inverse_T1), weight_grad_W


class _NormedProjections(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        input_TW: Tensor,
        norm_W: Tensor,
        eps: float,
        fixed: tuple[_Fixed, ...],
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        normed_TW, inverse_T1 = _norm(input_TW, norm_W, eps)
        pairs = _project_all(normed_TW, _from_tensors(tensors, fixed))
        ctx.fixed = fixed
        ctx.save_for_backward(input_TW, norm_W, inverse_T1, *(low for _, low in pairs), *tensors)
        return tuple(output for output, _ in pairs)

    @staticmethod
    def backward(ctx: _Context, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        fixed, needs = ctx.fixed, ctx.needs_input_grad
        input_TW, norm_W, inverse_T1, *rest = ctx.saved_tensors
        lows, projections = rest[: len(fixed)], _from_tensors(rest[len(fixed) :], fixed)
        normed_TW = _normed(input_TW, inverse_T1, norm_W)
        low_grads_TN = _low_gradients(grad_outputs, projections)
        gradients = _parameter_gradients(grad_outputs, normed_TW, lows, low_grads_TN, needs[4:])
        if not (needs[0] or needs[1]):  # the first block reads frozen embeddings
            return None, None, None, None, *gradients
        normed_grad_TW = _input_gradient(grad_outputs, low_grads_TN, projections)
        grad_TW, norm_grad_W = _norm_backward(normed_grad_TW, input_TW, inverse_T1, norm_W, needs[1])
        return grad_TW.to(input_TW.dtype), norm_grad_W, None, None, *gradients


class _AddProjection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, residual_TO: Tensor, input_TW: Tensor, fixed: _Fixed, *tensors: Tensor | None) -> Tensor:
        ((output_TO, low_TN),) = _project_all(input_TW, _from_tensors(tensors, (fixed,)))
        ctx.fixed = (fixed,)
        ctx.save_for_backward(input_TW, low_TN, *tensors)
        return output_TO.add_(residual_TO)

    @staticmethod
    def backward(ctx: _Context, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        input_TW, low_TN, *tensors = ctx.saved_tensors
        needs = ctx.needs_input_grad
        projections = _from_tensors(tensors, ctx.fixed)
        low_grads_TN = _low_gradients(grad_outputs, projections)
        gradients = _parameter_gradients(grad_outputs, input_TW, [low_TN], low_grads_TN, needs[3:])
        return grad_outputs[0], _input_gradient(grad_outputs, low_grads_TN, projections), None, *gradients


class _GatedMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        input_TW: Tensor,
        norm_W: Tensor,
        eps: float,
        fixed: tuple[_Fixed, ...],
        *tensors: Tensor | None,
    ) -> Tensor:
        gate, up, down = _from_tensors(tensors, fixed)
        normed_TW, inverse_T1 = _norm(input_TW, norm_W, eps)
        (gate_TO, gate_low_TN), (up_TO, up_low_TN) = _project_all(normed_TW, [gate, up])
        ((output_TW, down_low_TN),) = _project_all(silu(gate_TO).mul_(up_TO), [down])
        ctx.fixed = fixed
        ctx.save_for_backward(
            input_TW, norm_W, inverse_T1, gate_TO, up_TO, gate_low_TN, up_low_TN, down_low_TN, *tensors
        )
        return output_TW.add_(input_TW)

    @staticmethod
    def backward(ctx: _Context, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        input_TW, norm_W, inverse_T1, gate_TO, up_TO, *rest = ctx.saved_tensors
        gate_low_TN, up_low_TN, down_low_TN, *tensors = rest
        gate, up, down = _from_tensors(tensors, ctx.fixed)
        needs = ctx.needs_input_grad
        grad_TW = grad_outputs[0]

        open_TO = silu(gate_TO)
        down_low_grads_TN = _low_gradients([grad_TW], [down])
        down_grads = _parameter_gradients([grad_TW], open_TO * up_TO, [down_low_TN], down_low_grads_TN, needs[12:16])
        inner_grad_TO = _input_gradient([grad_TW], down_low_grads_TN, [down])

        up_grad_TO = open_TO.mul_(inner_grad_TO)
        gate_grad_TO = torch.ops.aten.silu_backward(inner_grad_TO.mul_(up_TO), gate_TO)
        both = [gate_grad_TO, up_grad_TO]
        both_low_grads_TN = _low_gradients(both, [gate, up])
        normed_TW = _normed(input_TW, inverse_T1, norm_W)
        both_lows = [gate_low_TN, up_low_TN]
        both_grads = _parameter_gradients(both, normed_TW, both_lows, both_low_grads_TN, needs[4:12])
        normed_grad_TW = _input_gradient(both, both_low_grads_TN, [gate, up])

        input_grad_TW, norm_grad_W = _norm_backward(normed_grad_TW, input_TW, inverse_T1, norm_W, needs[1])
        return input_grad_TW.add_(grad_TW).to(input_TW.dtype), norm_grad_W, None, None, *both_grads, *down_grads


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, heads_TGRS: Tensor, cos_TS: Tensor, sin_TS: Tensor) -> Tensor:
        ctx.save_for_backward(cos_TS, sin_TS)
        tokens, groups, repeats, size = heads_TGRS.shape
        rotated_GTRS = torch.empty((groups, tokens, repeats, size), dtype=heads_TGRS.dtype, device=heads_TGRS.device)
        _turn(heads_TGRS, rotated_GTRS.transpose(0, 1), cos_TS, sin_TS, 1)
        return rotated_GTRS

    @staticmethod
    def backward(ctx: _Context, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        cos_TS, sin_TS = ctx.saved_tensors
        grad_TGRS = grad_outputs[0].transpose(0, 1)
        back_TGRS = torch.empty(grad_TGRS.shape, dtype=grad_TGRS.dtype, device=grad_TGRS.device)
        _turn(grad_TGRS, back_TGRS, cos_TS, sin_TS, -1)
        return back_TGRS, None, None


def _turn(source_TGRS: Tensor, target_TGRS: Tensor, cos_TS: Tensor, sin_TS: Tensor, direction: int) -> None:
    """Turn the pairs (i, i + S/2) of every head by the angles of its position, forwards or (-1) back.

    The halves are swapped first: two operations over whole heads took 0.25 ms, four over halves 0.37 (1,250 tokens).
    """
    half = source_TGRS.shape[-1] // 2
    swapped_TGRS = torch.cat([source_TGRS[..., half:], source_TGRS[..., :half]], dim=-1)
    sin_TS = sin_TS * direction
    sin_TS[:, :half].neg_()
    torch.mul(source_TGRS, cos_TS[:, None, None], out=target_TGRS).addcmul_(swapped_TGRS, sin_TS[:, None, None])


def normed_projections(
    input_TW: Tensor, norm_W: Tensor, eps: float, projections: Sequence[Projection]
) -> tuple[Tensor, ...]:
    """norm(x) through each projection: tensors [T, O]."""
    fixed = tuple(each.fixed for each in projections)
    tensors = [tensor for each in projections for tensor in each.tensors()]
    outputs: tuple[Tensor, ...] = _NormedProjections.apply(input_TW, norm_W, eps, fixed, *tensors)  # type: ignore[no-untyped-call]
    return outputs


def add_projection(residual_TO: Tensor, input_TW: Tensor, projection: Projection) -> Tensor:
    """residual + projection(x), [T, O]."""
    output: Tensor = _AddProjection.apply(residual_TO, input_TW, projection.fixed, *projection.tensors())  # type: ignore[no-untyped-call]
    return output


def gated_mlp(
    input_TW: Tensor, norm_W: Tensor, eps: float, gate: Projection, up: Projection, down: Projection
) -> Tensor:
    """x + down(silu(gate(norm(x))) * up(norm(x))), [T, W]  (Shazeer 2020, 2002.05202)."""
    fixed = (gate.fixed, up.fixed, down.fixed)
    tensors = (*gate.tensors(), *up.tensors(), *down.tensors())
    output: Tensor = _GatedMlp.apply(input_TW, norm_W, eps, fixed, *tensors)  # type: ignore[no-untyped-call]
    return output


def with_lengths(output_TO: Tensor, projection: Projection) -> Tensor:
    """A projection's output from that of its products, [T, O]: the same, but where it has lengths of its own."""
    return output_TO if projection.lengths is None else projection.lengths.given_to(output_TO)


def rotate(heads_TGRS: Tensor, cos_TS: Tensor, sin_TS: Tensor) -> Tensor:
    """Heads turned by the angles of their positions, [G, T, R, S]; both halves of the tables hold the same angles."""
    rotated: Tensor = _Rotate.apply(heads_TGRS, cos_TS, sin_TS)  # type: ignore[no-untyped-call]
    return rotated
