"""The table of adaptations: a spec's kind to what puts it in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from tunesmith.adapt.base import Attached
from tunesmith.adapt.beginnings import Encode, attach_beginning
from tunesmith.adapt.bottleneck import attach_bottleneck
from tunesmith.adapt.experts import Load, attach_experts
from tunesmith.adapt.full import attach_full
from tunesmith.adapt.lora import attach_lora, no_dense
from tunesmith.adapt.lora_experts import attach_lora_experts
from tunesmith.adapt.subset import attach_subset
from tunesmith.models.policy import Policy
from tunesmith.recipe.specs.adapt import AdaptSpec, BottleneckSpec, ExpertsSpec, FullSpec, LoraExpertsSpec, SubsetSpec
from tunesmith.recipe.specs.beginnings import BeginningSpec


def no_tokenizer(text: str) -> Sequence[int]:
    """Where nobody can turn a text into tokens, none may ask for it."""
    raise ValueError(f"a first text needs a tokenizer: {text[:80]}")


def no_rows() -> Load:
    """Where there are no rows, nobody can ask which experts they use."""
    raise ValueError("the most used experts need training rows")


def attach(
    policy: Policy,
    spec: AdaptSpec,
    *,
    seed: int,
    base_name: str,
    encode: Encode = no_tokenizer,
    new: frozenset[str] = frozenset(),
    load: Callable[[], Load] = no_rows,
    dense: Callable[[], nn.Module] = no_dense,
) -> Attached:
    """Put an adaptation on a policy; what it names moves, everything else is frozen.

    Args:
        new: names in the policy of a task head that the base has no weights for; they move whatever the adaptation is.
        seed: draws the initial values of what is added.
        base_name: name of the base, written into the adapter's own config.
        encode: token ids of a text, for virtual tokens that begin as one.
        load: how often each expert is used by the training rows.
        dense: the model in its unquantised form, for additions that begin out of the weights of a base in codes.
    """
    if isinstance(spec, FullSpec):
        return attach_full(policy)
    if isinstance(spec, SubsetSpec):
        return attach_subset(policy, spec, base_name, new)
    if isinstance(spec, BeginningSpec):
        return attach_beginning(policy, spec, seed, base_name, encode, new)
    if isinstance(spec, LoraExpertsSpec):
        return attach_lora_experts(policy, spec, seed, base_name, new)
    if isinstance(spec, ExpertsSpec):
        return attach_experts(policy, spec, base_name, load, new)
    if isinstance(spec, BottleneckSpec):
        return attach_bottleneck(policy, spec, seed, base_name, new)
    return attach_lora(policy, spec, seed, base_name, new, dense)
