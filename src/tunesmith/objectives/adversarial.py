"""Domain adaptation: labelled rows of a source domain, unlabelled rows of the target, features that tell neither.

    loss = task (source rows) + domain (all rows, its gradient reversed below the classifier) + KL + MMD

Features are what the task head reads: the hidden states at a row's place of answer. Which rows are of the target their
numbers say; the classes that stand in them mean nothing and are never looked at.

Shape letters: K rows of a batch (each has one place of answer), W width of the features, D documents.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from tunesmith.models.packed import Packed
from tunesmith.models.policy import Policy
from tunesmith.objectives.alignment import FeatureTerm, gaussian_divergence, mean_discrepancy
from tunesmith.objectives.base import ACCURACY, LAMBDA
from tunesmith.objectives.domains import DomainClassifier, reversal_factor, reverse_gradient
from tunesmith.recipe.specs.objectives import AdversarialSpec

TASK, DOMAIN = "task", "domain"
KL, MMD = "kl", "mmd"


class Adversarial:
    """Row terms for the task and the domain classifier, terms of the whole step for KL and MMD.

    Args:
        targets: numbers of the rows of the target domain.
        own: the classifier, which stands under the policy; None without gradient reversal.
    """

    def __init__(self, spec: AdversarialSpec, targets: Collection[int], own: DomainClassifier | None) -> None:
        self._spec = spec
        self._targets = frozenset(targets)
        self.own = own
        self._factor = 0.0
        self._aligned: dict[str, FeatureTerm] = {}
        if spec.kl is not None:
            self._aligned[KL] = FeatureTerm(spec.kl, gaussian_divergence)
        if spec.mmd is not None:
            self._aligned[MMD] = FeatureTerm(spec.mmd.weight, partial(mean_discrepancy, spec=spec.mmd))

    @property
    def looks_ahead(self) -> bool:
        """Whether a term needs the features of a whole step."""
        return bool(self._aligned)

    def begin(self, progress: float) -> None:
        """Told before a step which share of all steps is done. The next pass is taken for a whole step."""
        if self._spec.reversal is not None:
            self._factor = reversal_factor(self._spec.reversal, progress)
        for term in self._aligned.values():
            term.in_one_part()

    def look(self, policy: Policy, batch: Packed) -> tuple[Tensor, ...]:
        """Numbers [K] and features [K, W] of the rows of a pass."""
        return batch.row[batch.document_of_kept()], policy.hidden(batch)

    def know(self, *seen: Tensor) -> None:
        """Take numbers [N] and features [N, W] of all rows of a step, which then comes in parts."""
        rows_N, features_NW = seen
        rows: list[int] = rows_N.tolist()
        is_target_N = torch.tensor([row in self._targets for row in rows], device=features_NW.device)
        for term in self._aligned.values():
            term.gathered(rows, features_NW, is_target_N)

    def count(self, batch: Packed) -> dict[str, float]:
        """Weights of the source rows, and for every other figure the rows of both domains."""
        is_target_K = self._of_target(rows_of(batch), batch)
        domain = (DOMAIN, ACCURACY, LAMBDA) if self.own is not None else ()
        task = float(batch.weight[~is_target_K].double().sum())
        return {TASK: task, **dict.fromkeys((*domain, *self._aligned), float(batch.keep.numel()))}

    def loss(self, policy: nn.Module, batch: Packed) -> dict[str, Tensor]:
        """The sum of every term over the batch's rows, and of the figures that are told."""
        rows = rows_of(batch)
        is_target_K = self._of_target(rows, batch)
        beside: dict[str, Tensor] = {}

        def look(features_KW: Tensor) -> None:
            if self.own is not None:
                beside.update(self._domain(self.own, features_KW, is_target_K))
            for name, term in self._aligned.items():
                beside[name] = term.sum_of(rows, features_KW, is_target_K)

        losses_K: Tensor = policy(batch, self._spec.label_smoothing, look=look)
        return {TASK: (losses_K * batch.weight)[~is_target_K].sum(), **beside}

    def _domain(self, own: DomainClassifier, features_KW: Tensor, is_target_K: Tensor) -> Mapping[str, Tensor]:
        scores_K = own(reverse_gradient(features_KW, self._factor))
        losses_K = binary_cross_entropy_with_logits(scores_K, is_target_K.to(scores_K.dtype), reduction="none")
        right_K = (scores_K.detach() > 0) == is_target_K
        factor = losses_K.new_tensor(self._factor * len(losses_K))
        return {DOMAIN: losses_K.sum(), ACCURACY: right_K.sum().to(losses_K.dtype), LAMBDA: factor}

    def _of_target(self, rows: list[int], batch: Packed) -> Tensor:
        return torch.tensor([row in self._targets for row in rows], dtype=torch.bool, device=batch.keep.device)

    def state(self) -> dict[str, object]:
        """Nothing to keep: lambda follows from the step, and the classifier is saved like all that moves."""
        return {}

    def restore(self, state: dict[str, object]) -> None:
        """Nothing to take."""


def rows_of(batch: Packed) -> list[int]:
    """The number of the row of every kept position."""
    rows: list[int] = batch.row[batch.document_of_kept()].tolist()
    return rows
