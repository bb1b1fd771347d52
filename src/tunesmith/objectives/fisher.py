"""The diagonal of the Fisher information of a model over rows of an old task: how much each number matters to it.

    F = sum over rows of (d log p(row) / d theta)^2  /  tokens of these rows

With labels that the model itself draws at every position (`sampled`), F is the Fisher information of what it predicts
there: gradients of different positions are uncorrelated, so the square of a row's sum is, on average, the sum of the
squares of its positions; and theta moved by d changes the prediction of a token by a KL divergence of about
1/2 sum F d^2. The rows' own answers (`observed`) give the empirical Fisher, which is large where the model is wrong and
not where it is sure (Kunstner et al. 2019, 1905.12558); it is what much code calls EWC.

A LoRA addition moves its layer's weight W_OI, so the gradient of W is what is squared: of a row's inputs X_TI and the
gradients Y_TO of its outputs it is Y^T X. W itself need not train, and may be stored in 4 bits.

Shape letters: T tokens of a row, K positions with loss, C tokens of the vocabulary or classes, O outputs, I inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from tunesmith.core.seed import derive_seed
from tunesmith.models.low_rank import LowRank
from tunesmith.models.packed import Features, Packed
from tunesmith.models.policy import Policy

Pack = Callable[[Sequence[Features]], Packed]


def fisher_diagonal(
    policy: Policy,
    rows: Sequence[Features],
    pack: Pack,
    moving: Mapping[str, nn.Parameter],
    additions: Sequence[LowRank],
    labels: Literal["sampled", "observed"],
    seed: int,
    seen: Callable[[int], None] = lambda done: None,
) -> dict[str, Tensor]:
    """F of what moves, on the CPU, in float32 or wider: by name of a parameter, of an addition by its module.

    Args:
        policy: with its adaptation in place and its blocks plain, at the start of the stage.
        moving: parameters that may move, by name in the policy.
        additions: which of them are LoRA additions.
        seen: called after every row with the number done.
    """
    factors = {name for each in additions for name in (each.low, each.high)}
    alone = {name: parameter for name, parameter in moving.items() if name not in factors}
    squares: dict[str, Tensor] = {}
    training, tokens = policy.training, 0
    policy.eval()
    try:
        with _gradients_of(policy, additions, squares):
            for place, row in enumerate(rows):
                batch = pack([row]).to(policy.device)
                generator = torch.Generator().manual_seed(derive_seed(seed, "fisher", place))
                _log_likelihood(policy, batch, labels, generator).backward()
                for name, parameter in alone.items():
                    if parameter.grad is not None:
                        _square(squares, name, parameter.grad)
                for parameter in moving.values():
                    parameter.grad = None
                tokens += batch.keep.numel()
                seen(place + 1)
    finally:
        policy.train(training)
    for name, parameter in alone.items():  # what no row reaches does not matter to them
        squares.setdefault(name, torch.zeros(parameter.shape, dtype=_wide(parameter)))
    return {name: square.div_(max(1, tokens)).cpu() for name, square in squares.items()}


def _log_likelihood(policy: Policy, batch: Packed, labels: str, generator: torch.Generator) -> Tensor:
    """Log-likelihood of the labels at all positions together, weighted as in training."""
    scores_KC, target = policy.scores_and_target(batch)
    if target.ndim == 2:  # classes that do not exclude each other
        return _of_decisions(scores_KC, target, batch.weight, labels, generator)
    target_K = target
    if labels == "sampled":
        shares_KC = torch.softmax(scores_KC.detach(), dim=-1).cpu()
        target_K = torch.multinomial(shares_KC, 1, generator=generator)[:, 0].to(target.device)
    return -(cross_entropy(scores_KC, target_K, reduction="none") * batch.weight).sum()


def _of_decisions(
    scores_KC: Tensor, target_KC: Tensor, weight_K: Tensor, labels: str, generator: torch.Generator
) -> Tensor:
    """The same of C yes-or-no decisions, whose losses are averaged in training: their squared gradients are, too."""
    wanted_KC = target_KC.to(scores_KC.dtype)
    if labels == "sampled":
        shares_KC = torch.sigmoid(scores_KC.detach()).cpu()
        wanted_KC = torch.bernoulli(shares_KC, generator=generator).to(scores_KC)
    losses_K = binary_cross_entropy_with_logits(scores_KC, wanted_KC, reduction="none").sum(-1)
    return -(losses_K * weight_K).sum() / math.sqrt(scores_KC.shape[1])


@contextmanager
def _gradients_of(policy: Policy, additions: Sequence[LowRank], squares: dict[str, Tensor]) -> Iterator[None]:
    """Square the gradient of each such layer's weight whenever a backward pass comes by."""
    handles = []
    for each in additions:
        layer = policy.get_submodule(each.module)
        handles.append(layer.register_forward_hook(partial(_watch, squares, each.module)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watch(squares: dict[str, Tensor], name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    input_TI = inputs[0].detach().flatten(0, -2)

    def arrived(gradient: Tensor) -> None:
        gradient_TO = gradient.flatten(0, -2)
        wide = _wide(gradient_TO)
        _square(squares, name, gradient_TO.to(wide).T @ input_TI.to(wide))

    output.register_hook(arrived)


def _square(squares: dict[str, Tensor], name: str, gradient: Tensor) -> None:
    square = gradient.to(_wide(gradient)).square()
    squares[name] = squares[name].add_(square) if name in squares else square


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
