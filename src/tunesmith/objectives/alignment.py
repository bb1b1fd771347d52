"""How far the features of two domains lie apart, as terms of the loss over a whole step.

Neither figure is a sum over rows: each looks at all rows of a step together. Where a step is computed in several parts,
its features are therefore gathered first, without gradients; the figure and its slope at every row's features are
taken from them, and each part then adds up slope times features, which has the gradient of the whole (Gao et al. 2021,
2101.06983, do so with contrastive losses). So the layout of a step cannot change the update. Slopes are those of
appearances: with dropout a row that stands in a step twice has two features.

Shape letters: S rows of the source, T rows of the target, N rows of a step, K rows of a batch, W width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tunesmith.recipe.specs.objectives import MmdSpec

Distance = Callable[[Tensor, Tensor], Tensor]
"""Of the features of the source [S, W] from those of the target [T, W]; a scalar, 0 where they are alike."""

_FLOOR = 0.01
"""Part of the mean variance of both domains that is added to every variance: a few rows may agree in a number."""
_LEAST = 1e-12
LEAST_ROWS = 2
"""Of either domain in a step."""


def gaussian_divergence(source_SW: Tensor, target_TW: Tensor) -> Tensor:
    """KL(target, source) of Gaussians with diagonal covariance and the rows' own moments, a number of the features.

        1 / (2 W) sum over W of  log(v_s / v_t) + (v_t + (m_t - m_s)^2) / v_s - 1

    The target's features are to lie where the source's are, as in Nguyen et al. 2022 (2106.07780). Means and variances
    are those of the rows (divided by their number); the floor under the variances has no slope.
    """
    mean_s_W, mean_t_W = source_SW.mean(0), target_TW.mean(0)
    variance_s_W, variance_t_W = source_SW.var(0, correction=0), target_TW.var(0, correction=0)
    floor = _FLOOR * (variance_s_W + variance_t_W).detach().mean() / 2 + _LEAST
    variance_s_W, variance_t_W = variance_s_W + floor, variance_t_W + floor
    spread_W = (variance_t_W + (mean_t_W - mean_s_W).square()) / variance_s_W
    return 0.5 * (torch.log(variance_s_W / variance_t_W) + spread_W - 1).mean()


def mean_discrepancy(source_SW: Tensor, target_TW: Tensor, spec: MmdSpec) -> Tensor:
    """Squared maximum mean discrepancy (Gretton et al. 2012), the mean over several kernels (Long et al. 2015).

        mean k(s, s') + mean k(t, t') - 2 mean k(s, t)        k(x, y) = exp(-|x - y|^2 / (b scale))

    with every pair counted, a row with itself too: never below 0, and 0 for equal rows. `scale` is as stated, or the
    mean squared distance between two different rows of the step, with its slope. Held constant, as the median mostly
    is, it would make smaller features look like nearer domains, step after step, until nothing is left of them.
    """
    rows_NW = torch.cat([source_SW, target_TW])
    squares_NN = _squared_distances(rows_NW)
    scale = squares_NN.new_tensor(spec.scale) if spec.scale is not None else _mean_of_pairs(squares_NN)
    kernels_NN = torch.stack([torch.exp(-squares_NN / (each * scale)) for each in spec.bandwidths]).mean(0)
    own, other = slice(None, len(source_SW)), slice(len(source_SW), None)
    within = kernels_NN[own, own].mean() + kernels_NN[other, other].mean()
    return (within - 2 * kernels_NN[own, other].mean()).clamp_min(0)  # rounding may take it below


def _squared_distances(rows_NW: Tensor) -> Tensor:
    """|x - y|^2 of every two rows, [N, N], without the square root whose slope at 0 is none."""
    products_NN = rows_NW @ rows_NW.T
    lengths_N = products_NN.diagonal()
    return (lengths_N[:, None] + lengths_N[None] - 2 * products_NN).clamp_min(0)


def _mean_of_pairs(squares_NN: Tensor) -> Tensor:
    """Mean over pairs of different rows; the diagonal is 0."""
    rows = len(squares_NN)
    return (squares_NN.sum() / (rows * (rows - 1))).clamp_min(_LEAST)


class FeatureTerm:
    """A distance as a term: the value is that of the whole step, counted once for every row.

    Args:
        weight: of the distance in the loss.
    """

    def __init__(self, weight: float, distance: Distance) -> None:
        self._weight = weight
        self._distance = distance
        self._value = 0.0
        self._slopes: Tensor | None = None  # of the rows of this rank, in the order in which parts come
        self._taken = 0

    def in_one_part(self) -> None:
        """The next batches hold a whole step each, or what is to be taken for one."""
        self._slopes = None

    def gathered(self, own: slice, features_NW: Tensor, is_target_N: Tensor) -> None:
        """Take value and slopes from all rows of a step, which then comes in parts.

        Args:
            own: which of them the parts hold, in their order.
        """
        leaf_NW = _wide(features_NW.detach()).requires_grad_()
        with torch.enable_grad():
            value = self._of(leaf_NW, is_target_N)
            (slope_NW,) = torch.autograd.grad(value, leaf_NW)
        # The loop divides by the rows of the step, so every row's part is as many times as large.
        self._slopes, self._taken = slope_NW[own] * len(slope_NW), 0
        self._value = float(value.detach())

    def sum_of(self, features_KW: Tensor, is_target_K: Tensor) -> Tensor:
        """The value times the rows of the next part, with their share of the whole step's gradient."""
        wide_KW, rows = _wide(features_KW), len(features_KW)
        if self._slopes is None:
            return rows * self._of(wide_KW, is_target_K)
        slope_KW = self._slopes[self._taken : self._taken + rows]
        self._taken += rows
        return rows * self._value + (slope_KW * (wide_KW - wide_KW.detach())).sum()

    def _of(self, features_NW: Tensor, is_target_N: Tensor) -> Tensor:
        """0 where a domain has a single row or none, as in the small step at an epoch's end: it has no spread."""
        wide_NW, targets = _wide(features_NW), int(is_target_N.sum())
        if min(targets, len(is_target_N) - targets) < LEAST_ROWS:
            return 0.0 * wide_NW.sum()
        return self.between(wide_NW[~is_target_N], wide_NW[is_target_N])

    def between(self, source_SW: Tensor, target_TW: Tensor) -> Tensor:
        """The weighted distance of the features of two domains."""
        return self._weight * self._distance(_wide(source_SW), _wide(target_TW))


def _wide(features: Tensor) -> Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))
