"""What a state promises in a domain that has no labels: how well it does in the source, and how near the target is.

    adapted_loss = loss of the validation rows + KL + MMD of features of the target from theirs, weighted as in the loss

Ben-David et al. 2010 (A theory of learning from different domains, theorem 2) bound the error in the target by that in
the source, a distance of the domains, and what the best model would still get wrong in both. The last part needs labels
and stays unknown, so the sum is a guide and no proof. A domain classifier is not asked: it was trained against, and
guesses wrong about features that lie far apart.

Shape letters: S rows of the source, T rows of the target, W width.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from tunesmith.core.errors import TunesmithError
from tunesmith.core.seed import derive_seed
from tunesmith.models.packed import Features, Packed
from tunesmith.models.policy import Policy
from tunesmith.objectives.adversarial import Adversarial, RowsOf
from tunesmith.objectives.alignment import LEAST_ROWS
from tunesmith.recipe.specs.train import ADAPTED_LOSS, TrainSpec
from tunesmith.runtime.base import Runtime
from tunesmith.train.passes import Passes

Validate = Callable[[], Mapping[str, float]]
"""Gives the figures of a validation."""


def with_distance(
    validate: Validate,
    domains: Adversarial | None,
    spec: TrainSpec,
    policy: Policy,
    passes: Passes,
    runtime: Runtime,
    source: Sequence[Features],
    target: Sequence[Features],
) -> Validate:
    """The validation with the distance of the domains, where that decides; as it is where it does not.

    Args:
        source: validation rows; of these and of the target's at most `early_stopping.rows` are looked at, drawn once.

    Errors: train.domains_too_few.
    """
    if domains is None or spec.early_stopping.metric != ADAPTED_LOSS:
        return validate
    chosen = [_some(rows, spec.early_stopping.rows, spec.seed) for rows in (source, target)]
    if min(map(len, chosen)) < LEAST_ROWS:
        validation, targets = map(len, chosen)
        raise TunesmithError(
            "train.domains_too_few", metric=ADAPTED_LOSS, validation=validation, target=targets, least=LEAST_ROWS
        )
    return _WithDistance(validate, domains, policy, passes, runtime, chosen[0], chosen[1])


def _some(rows: Sequence[Features], most: int, seed: int) -> Sequence[Features]:
    """The rows, or as many of them as are wanted, the same ones at every call."""
    return rows if len(rows) <= most else random.Random(derive_seed(seed, "rows of a domain")).sample(rows, most)


class _WithDistance:
    """Calls a validation, and then looks at the features of both domains, without gradients and dropout."""

    def __init__(
        self,
        validate: Validate,
        domains: Adversarial,
        policy: Policy,
        passes: Passes,
        runtime: Runtime,
        source: Sequence[Features],
        target: Sequence[Features],
    ) -> None:
        self._validate = validate
        self._domains = domains
        self._policy = policy
        self._passes = passes
        self._runtime = runtime
        self._source = source
        self._target = target

    def __call__(self) -> dict[str, float]:
        """The figures, the distances under the names of their terms, and `adapted_loss`."""
        figures = self._validate()
        training = self._policy.training
        self._policy.eval()
        with torch.inference_mode():
            distances = self._domains.distances(self._features(self._source), self._features(self._target))
        self._policy.train(training)
        return {**figures, **distances, ADAPTED_LOSS: figures["loss"] + sum(distances.values())}

    def _features(self, rows: Sequence[Features]) -> Tensor:
        """Features of rows that all ranks look at together, one for each row, the same on every rank."""
        mine = rows[self._runtime.rank :: self._runtime.size]
        wide = torch.promote_types(self._policy.model.dtype, torch.float32)
        none_0W = torch.zeros((0, self._policy.head_width), dtype=wide, device=self._runtime.device)
        return self._runtime.gather(torch.cat([none_0W, *self._passes.each(mine, self._look)]))

    def _look(self, batch: Packed) -> Tensor:
        return RowsOf.batch(batch).mean(self._policy.hidden(batch.to(self._runtime.device)))
