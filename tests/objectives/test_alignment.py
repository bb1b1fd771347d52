"""Closed forms of what brings two domains together: the reversed gradient, KL of Gaussians, MMD of kernels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from tunesmith.objectives.alignment import _FLOOR, FeatureTerm, gaussian_divergence, mean_discrepancy
from tunesmith.objectives.domains import DomainClassifier, reversal_factor, reverse_gradient
from tunesmith.recipe.specs.objectives import MmdSpec, ReversalSpec


def drawn(rows: int, width: int = 5, seed: int = 0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64) + shift


# ------------------------------------------------------------------------------------------ gradient reversal


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 2.5])
def test_the_gradient_comes_back_turned_round_and_scaled(factor: float) -> None:
    classifier = DomainClassifier(5, 7, torch.float64, seed=1)
    features = drawn(6).requires_grad_()
    (plain,) = torch.autograd.grad(classifier(features).square().sum(), features)
    reversed_scores = classifier(reverse_gradient(features, factor))
    torch.testing.assert_close(reversed_scores, classifier(features), rtol=0, atol=0)
    reversed_scores.square().sum().backward()
    assert features.grad is not None and float(plain.norm()) > 0
    torch.testing.assert_close(features.grad, -factor * plain, rtol=1e-14, atol=0)


def test_above_the_reversal_the_gradient_is_the_plain_one() -> None:
    classifier = DomainClassifier(5, 7, torch.float64, seed=1)
    plain = torch.autograd.grad(classifier(drawn(6)).square().sum(), list(classifier.parameters()))
    turned = torch.autograd.grad(
        classifier(reverse_gradient(drawn(6).requires_grad_(), 0.7)).square().sum(), list(classifier.parameters())
    )
    for one, other in zip(plain, turned, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_lambda_rises_from_nothing_towards_its_maximum() -> None:
    spec = ReversalSpec(max_lambda=0.8, gamma=10.0)
    assert reversal_factor(spec, 0.0) == 0.0
    assert reversal_factor(spec, 0.1) == pytest.approx(0.8 * (2 / (1 + math.exp(-1)) - 1))
    assert reversal_factor(spec, 1.0) == pytest.approx(0.8, rel=1e-4)
    risen = [reversal_factor(spec, place / 20) for place in range(21)]
    assert risen == sorted(risen) and len(set(risen)) == 21


# ------------------------------------------------------------------------------------------ KL


def test_the_divergence_is_that_of_gaussians_with_the_rows_moments() -> None:
    source, target = drawn(40, seed=1), 1.5 * drawn(30, seed=2, shift=0.4)
    moments = [(each.mean(0), each.var(0, correction=0)) for each in (source, target)]
    floor = _FLOOR * (moments[0][1] + moments[1][1]).mean() / 2
    of_source, of_target = (Independent(Normal(mean, (variance + floor).sqrt()), 1) for mean, variance in moments)
    assert float(gaussian_divergence(source, target)) == pytest.approx(float(kl_divergence(of_target, of_source)) / 5)


def test_equal_distributions_have_no_divergence_and_others_have_one() -> None:
    rows = drawn(12)
    assert float(gaussian_divergence(rows, rows.flip(0))) == pytest.approx(0, abs=1e-14)
    assert float(gaussian_divergence(rows, rows + 0.1)) > 0
    assert float(gaussian_divergence(rows, 0.5 * rows)) > 0
    assert math.isfinite(float(gaussian_divergence(rows[:1], rows[:1]))), "one row has no variance"
    assert math.isfinite(float(gaussian_divergence(rows[:1], rows[1:2])))


# ------------------------------------------------------------------------------------------ MMD


def test_equal_samples_have_no_discrepancy_and_others_have_one() -> None:
    rows = drawn(9)
    assert float(mean_discrepancy(rows, rows.flip(0), MmdSpec())) == pytest.approx(0, abs=1e-14)
    assert float(mean_discrepancy(rows, rows + 1, MmdSpec())) > 0.05


@pytest.mark.parametrize("scale", [None, 3.0])
def test_a_small_case_in_plain_numbers(scale: float | None) -> None:
    source, target = drawn(3, width=2, seed=4), drawn(4, width=2, seed=5, shift=0.5)
    spec = MmdSpec(scale=scale, bandwidths=[0.5, 2.0])
    rows = np.concatenate([source.numpy(), target.numpy()])
    squares = np.array([[((left - right) ** 2).sum() for right in rows] for left in rows])
    different = [squares[left, right] for left in range(7) for right in range(left + 1, 7)]
    unit = scale if scale is not None else np.mean(different)
    kernels = np.mean([np.exp(-squares / (width * unit)) for width in (0.5, 2.0)], axis=0)
    wanted = kernels[:3, :3].mean() + kernels[3:, 3:].mean() - 2 * kernels[:3, 3:].mean()
    assert float(mean_discrepancy(source, target, spec)) == pytest.approx(wanted)


def test_smaller_features_are_no_nearer() -> None:
    """Neither by the value nor by its slope, which is 0 along the features themselves."""
    rows = torch.cat([drawn(3, seed=6), drawn(4, seed=7, shift=0.5)]).requires_grad_()
    value = mean_discrepancy(rows[:3], rows[3:], MmdSpec())
    value.backward()
    assert rows.grad is not None and float(rows.grad.norm()) > 0.01
    assert float((rows.grad * rows.detach()).sum()) == pytest.approx(0, abs=1e-14)
    smaller = 0.1 * rows.detach()
    assert float(mean_discrepancy(smaller[:3], smaller[3:], MmdSpec())) == pytest.approx(float(value.detach()))


@pytest.mark.parametrize("scale", [None, 4.0])
def test_its_slope_is_that_of_differences(scale: float | None) -> None:
    source, target = drawn(3, seed=6), drawn(4, seed=7, shift=0.5)
    spec = MmdSpec(scale=scale)
    assert torch.autograd.gradcheck(
        lambda left, right: mean_discrepancy(left, right, spec),
        (source.requires_grad_(), target.requires_grad_()),
    )


# ------------------------------------------------------------------------------------------ a step in parts


@pytest.mark.parametrize("distance", [gaussian_divergence, lambda s, t: mean_discrepancy(s, t, MmdSpec())])
@pytest.mark.parametrize("ranks", [[[8]], [[3, 5]], [[1] * 8], [[3], [5]], [[2, 0, 1], [], [4, 1]]])
def test_parts_of_a_step_add_up_to_the_whole(distance: object, ranks: list[list[int]]) -> None:
    """Whatever rank they are on; each is told where its own rows lie."""
    features = drawn(8, seed=8)
    is_target = torch.tensor([False, False, True, True, False, True, False, True])
    leaf = features.clone().requires_grad_()
    value = 0.7 * distance(leaf[~is_target], leaf[is_target])  # type: ignore[operator]
    value.backward()
    other = features.clone().requires_grad_()
    total, first = torch.zeros((), dtype=torch.float64), 0
    for of_rank in ranks:
        term = FeatureTerm(0.7, distance)  # type: ignore[arg-type]
        term.gathered(slice(first, first + sum(of_rank)), features, is_target)
        for count in of_rank:
            part = slice(first, first + count)
            total = total + term.sum_of(other[part], is_target[part])
            first += count
    (total / len(features)).backward()
    assert float(total.detach()) / len(features) == pytest.approx(float(value.detach()))
    torch.testing.assert_close(other.grad, leaf.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("targets", [0, 1, 2])
def test_a_step_in_which_a_domain_has_no_spread_is_left_out(targets: int) -> None:
    """Such as the last one of an epoch: the divergence of two single rows would be beyond all bounds."""
    term = FeatureTerm(1.0, gaussian_divergence)
    only = drawn(3).requires_grad_()
    found = term.sum_of(only, torch.arange(3) < targets)
    found.backward()
    assert float(found.detach()) == 0 and only.grad is not None and not only.grad.any()
