"""What experts add to a decoder's size: their numbers, those that a token meets, and those that move.

All blocks are taken to have the same experts; a model that mixes dense blocks in is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tunesmith.core.errors import TunesmithError
from tunesmith.recipe.specs.adapt import ExpertsSpec, LoraExpertsSpec


@dataclass(frozen=True)
class Experts:
    """Experts of every block, none by itself. A token meets `active` of `count`; `inner` is the width inside one."""

    count: int = 0
    active: int = 0
    inner: int = 0

    def numbers(self, hidden: int) -> int:
        """Of one expert: gate, up and down."""
        return 3 * hidden * self.inner

    def met(self, hidden: int) -> int:
        """What a token meets in a block: its experts and their router."""
        return self.active * self.numbers(hidden) + hidden * self.count

    def spare(self, hidden: int) -> int:
        """What it does not meet."""
        return (self.count - self.active) * self.numbers(hidden)


NO_EXPERTS = Experts()
"""Of a dense model."""


def experts_from_config(config: Mapping[str, object]) -> tuple[Experts, int]:
    """Experts of a config.json, and the inner width of what every token meets beside them.

    Errors: plan.unknown_size where blocks differ or a dimension is missing.
    """
    kind = str(config.get("model_type"))
    if kind not in ("mixtral", "qwen2_moe", "qwen3_moe"):
        return NO_EXPERTS, 0
    if config.get("decoder_sparse_step") not in (None, 1) or config.get("mlp_only_layers"):
        raise TunesmithError("plan.unknown_size", key="mlp_only_layers")
    names = (
        "num_experts" if "num_experts" in config else "num_local_experts",
        "num_experts_per_tok",
        "intermediate_size" if kind == "mixtral" else "moe_intermediate_size",
    )
    sizes: list[int] = []
    for name in names:
        value = config.get(name)
        if not isinstance(value, int) or value < 1:
            raise TunesmithError("plan.unknown_size", key=name)
        sizes.append(value)
    shared = config.get("shared_expert_intermediate_size") if kind == "qwen2_moe" else 0
    return Experts(*sizes), shared if isinstance(shared, int) else 0


def lora_expert_parameters(layers: int, hidden: int, inner: int, adapt: LoraExpertsSpec) -> int:
    """Parameters of the LoRA experts that move: A and B of three layers, and a row of the router.

    What is left open as in a start that is not read here counts as by itself.
    """
    moving = adapt.new_experts + len(adapt.update)
    return layers * moving * (3 * (adapt.rank or 8) * (hidden + inner) + hidden)


def moving_experts(experts: Experts, adapt: ExpertsSpec) -> int:
    """How many of a block's experts move."""
    if adapt.most_used is not None:
        return min(adapt.most_used, experts.count)
    return len(adapt.experts) if isinstance(adapt.experts, list) else experts.count
