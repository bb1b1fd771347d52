"""Domain adaptation: labelled rows of a source domain, unlabelled rows of the target, features that tell neither.

    loss = task (source rows) + domain (all rows, its gradient reversed below the classifier) + KL + MMD

Features are what the task head reads: the hidden state at a row's place of answer, or their mean over its places where
words have classes. So a row is one item of every domain term, however long it is: which domain a text is of is a fact
about the text, and a word alone (a comma) tells nothing of it. Zhou et al. 2019 (P19-1336) pool each sentence for their
discriminator too, by attention; a mean needs no weights. Which rows are of the target their numbers say; the classes in
them mean nothing and are never looked at.

Shape letters: K places of answer of a batch, R rows that they belong to, W width of the features, N rows of a step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class RowsOf:
    """The rows of a batch that have places of answer: their numbers, and how many places each has, in order."""

    numbers: Sequence[int]
    places: Sequence[int]

    @classmethod
    def batch(cls, batch: Packed) -> RowsOf:
        """Those of a batch; a row whose places have no weight has none."""
        document_R, places_R = torch.unique_consecutive(batch.document_of_kept(), return_counts=True)
        return cls(batch.row[document_R].tolist(), places_R.tolist())

    def mean(self, values_KW: Tensor) -> Tensor:
        """The mean over the places of each row, [R, W], in float32 or wider."""
        wide_KW = values_KW.to(torch.promote_types(values_KW.dtype, torch.float32))
        if not self.numbers:
            return wide_KW
        return torch.stack([part.mean(0) for part in wide_KW.split(list(self.places))])

    def by_place(self, values_R: Tensor) -> Tensor:
        """What holds of each row, at each of its places, [K]."""
        return values_R.repeat_interleave(torch.tensor(self.places, dtype=torch.long, device=values_R.device))


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
        """Numbers [R] and features [R, W] of the rows of a pass."""
        rows = RowsOf.batch(batch)
        features_RW = rows.mean(policy.hidden(batch))
        return torch.tensor(rows.numbers, dtype=torch.long, device=features_RW.device), features_RW

    def know(self, own: slice, *seen: Tensor) -> None:
        """Take numbers [N] and features [N, W] of all rows of a step, which then comes in parts, and which are here."""
        rows_N, features_NW = seen
        found = [row in self._targets for row in rows_N.tolist()]
        is_target_N = torch.tensor(found, dtype=torch.bool, device=features_NW.device)
        for term in self._aligned.values():
            term.gathered(own, features_NW, is_target_N)

    def count(self, batch: Packed) -> dict[str, float]:
        """Weights of the source rows, and for every other figure the rows of both domains."""
        rows = RowsOf.batch(batch)
        is_target_K = rows.by_place(self._of_target(rows, batch))
        domain = (DOMAIN, ACCURACY, LAMBDA) if self.own is not None else ()
        task = float(batch.weight[~is_target_K].double().sum())
        return {TASK: task, **dict.fromkeys((*domain, *self._aligned), float(len(rows.numbers)))}

    def loss(self, policy: nn.Module, batch: Packed) -> dict[str, Tensor]:
        """The sum of every term over the batch's rows, and of the figures that are told."""
        rows = RowsOf.batch(batch)
        is_target_R = self._of_target(rows, batch)
        beside: dict[str, Tensor] = {}

        def look(features_KW: Tensor) -> None:
            features_RW = rows.mean(features_KW)
            if self.own is not None:
                beside.update(self._domain(self.own, features_RW, is_target_R))
            for name, term in self._aligned.items():
                beside[name] = term.sum_of(features_RW, is_target_R)

        losses_K: Tensor = policy(batch, self._spec.label_smoothing, look=look)
        return {TASK: (losses_K * batch.weight)[~rows.by_place(is_target_R)].sum(), **beside}

    def _domain(self, own: DomainClassifier, features_RW: Tensor, is_target_R: Tensor) -> Mapping[str, Tensor]:
        scores_R = own(reverse_gradient(features_RW, self._factor))
        losses_R = binary_cross_entropy_with_logits(scores_R, is_target_R.to(scores_R.dtype), reduction="none")
        right_R = (scores_R.detach() > 0) == is_target_R
        factor = losses_R.new_tensor(self._factor * len(losses_R))
        return {DOMAIN: losses_R.sum(), ACCURACY: right_R.sum().to(losses_R.dtype), LAMBDA: factor}

    def _of_target(self, rows: RowsOf, batch: Packed) -> Tensor:
        found = [row in self._targets for row in rows.numbers]
        return torch.tensor(found, dtype=torch.bool, device=batch.keep.device)

    def distances(self, source_SW: Tensor, target_TW: Tensor) -> dict[str, float]:
        """KL and MMD, weighted as in the loss, of features of source rows from those of target rows."""
        return {name: float(term.between(source_SW, target_TW)) for name, term in self._aligned.items()}

    def state(self) -> dict[str, object]:
        """Nothing to keep: lambda follows from the step, and the classifier is saved like all that moves."""
        return {}

    def restore(self, state: dict[str, object]) -> None:
        """Nothing to take."""
