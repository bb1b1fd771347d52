"""NF4: numbers in 4 bits, quantised and read back by bitsandbytes' functions (Dettmers et al. 2023, 2305.14314).

Each block of 64 numbers is divided by its largest magnitude, and every number becomes the nearest of 16 quantiles of
the normal distribution. The magnitudes take 8 bits themselves, in groups of 256 around their common mean (double
quantisation): 4.13 bits a number in all.

bitsandbytes is an extra; only this file knows it. It quantises on the CPU, wherever the weights go afterwards, so that
the same weights have the same codes on every device.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Protocol, cast

import torch
from torch import Tensor

from tunesmith.core.errors import TunesmithError

BLOCK = 64
GROUP = 256
"""Magnitudes of blocks that share a scale."""


class _QuantState(Protocol):
    """What bitsandbytes keeps beside the codes."""

    absmax: Tensor
    offset: Tensor
    state2: _QuantState


class _Functions(Protocol):
    """The part of bitsandbytes.functional that is used."""

    def quantize_4bit(
        self, A: Tensor, *, blocksize: int, compress_statistics: bool, quant_type: str
    ) -> tuple[Tensor, _QuantState]: ...

    def dequantize_blockwise(self, A: Tensor, *, absmax: Tensor, blocksize: int) -> Tensor: ...

    def dequantize_4bit(self, A: Tensor, quant_state: _QuantState) -> Tensor: ...

    def QuantState(
        self, absmax: Tensor, shape: torch.Size, dtype: torch.dtype, blocksize: int, quant_type: str
    ) -> _QuantState: ...


def require_nf4() -> None:
    """Refuse NF4 before anything is computed. Errors: models.bitsandbytes_missing."""
    if find_spec("bitsandbytes") is None:
        raise TunesmithError("models.bitsandbytes_missing")


def nf4_library() -> dict[str, str]:
    """Name and version of what quantises: another one may give other codes."""
    return {"bitsandbytes": version("bitsandbytes")}


@cache
def _functions() -> _Functions:
    require_nf4()
    from bitsandbytes import functional

    return cast(_Functions, functional)


def encode(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise a weight [O, W] of an even number of numbers.

    Returns:
        codes: two in a byte, [O * W / 2] uint8.
        magnitudes: of every block, in 8 bits, [blocks] uint8.
        scales: of every group of magnitudes, and last their mean, [groups + 1] float32.

    Errors: models.bitsandbytes_missing.
    """
    wide = weight.float() if weight.dtype == torch.float64 else weight
    codes, state = _functions().quantize_4bit(
        wide.detach().cpu().contiguous(), blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
    )
    scales = torch.cat([state.state2.absmax.float(), state.offset.float().reshape(1)])
    return codes.flatten(), state.absmax, scales


def decode(codes: Tensor, magnitudes: Tensor, scales: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The numbers that the codes stand for, [O, W] in a number format for training."""
    functions = _functions()
    largest = functions.dequantize_blockwise(magnitudes, absmax=scales[:-1], blocksize=GROUP).add_(scales[-1])
    stored = torch.float32 if dtype == torch.float64 else dtype
    # Where a block goes on in the next row, the CPU's function loses count of the blocks (0.50.2) unless it is given
    # one long row; given rows it uses several threads.
    read_as = shape if shape[-1] % BLOCK == 0 else torch.Size((shape.numel(),))
    state = functions.QuantState(largest, shape=read_as, dtype=stored, blocksize=BLOCK, quant_type="nf4")
    return functions.dequantize_4bit(codes, state).view(shape).to(dtype)
