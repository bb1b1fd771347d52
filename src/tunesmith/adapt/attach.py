"""The table of adaptations: a spec's kind to what puts it in place."""

from __future__ import annotations

from tunesmith.adapt.base import Attached
from tunesmith.adapt.full import attach_full
from tunesmith.adapt.lora import attach_lora
from tunesmith.adapt.subset import attach_subset
from tunesmith.models.policy import Policy
from tunesmith.recipe.specs.adapt import AdaptSpec, FullSpec, SubsetSpec


def attach(policy: Policy, spec: AdaptSpec, *, seed: int, base_name: str) -> Attached:
    """Put an adaptation on a policy; what it names moves, everything else is frozen.

    Args:
        seed: draws the initial values of what is added.
        base_name: name of the base, written into the adapter's own config.
    """
    if isinstance(spec, FullSpec):
        return attach_full(policy)
    if isinstance(spec, SubsetSpec):
        return attach_subset(policy, spec, base_name)
    return attach_lora(policy, spec, seed, base_name)
