"""Two domains in one fit: the classifier under the policy, the rows of every step, and the objective."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.models.packed import Features
from tunesmith.models.policy import Policy
from tunesmith.objectives.adversarial import Adversarial
from tunesmith.objectives.alignment import LEAST_ROWS
from tunesmith.objectives.domains import DomainClassifier
from tunesmith.recipe.specs.objectives import AdversarialSpec, ObjectiveSpec
from tunesmith.train.replay import ReplaySource


def adversarial_objective(
    spec: AdversarialSpec, targets: Sequence[Features], policy: Policy, seed: int, emitter: Emitter
) -> Adversarial:
    """The objective; its domain classifier then stands under the policy, where everything that trains does."""
    own: DomainClassifier | None = None
    if spec.reversal is not None:
        width, dtype = policy.head_width, torch.promote_types(policy.model.dtype, torch.float32)
        policy.own = own = DomainClassifier(width, spec.reversal.hidden_size, dtype, seed)
        emitter.emit("note", code="train.domain_classifier", parameters=sum(each.numel() for each in own.parameters()))
    return Adversarial(spec, {row.row for row in targets}, own)


def classifier_rate(spec: ObjectiveSpec) -> float:
    """Peak step size of the domain classifier; 0 where there is none."""
    reversal = spec.reversal if isinstance(spec, AdversarialSpec) else None
    return reversal.learning_rate if reversal is not None else 0.0


def domain_source(
    spec: AdversarialSpec, rows: Sequence[Features], targets: Sequence[Features], window: int, seed: int
) -> ReplaySource:
    """Source rows in their order, and beside them target rows in theirs; an epoch is one pass over the source.

    Errors: train.domains_no_room.
    """
    beside = spec.target_rows(window)
    least = LEAST_ROWS if spec.has_distance else 1
    if min(beside, window - beside) < least:
        raise TunesmithError("train.domains_no_room", rows=window, target=beside, least=least)
    return ReplaySource(rows, targets, window, beside, seed)
