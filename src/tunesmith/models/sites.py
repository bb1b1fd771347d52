"""Where the parts of a model are: role to module names, by architecture. Supporting a model is a row of data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from tunesmith.core.errors import TunesmithError

_SPLIT_PROJECTIONS = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
_ROLES: dict[str, dict[str, tuple[str, ...]]] = {
    name: _SPLIT_PROJECTIONS for name in ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text", "smollm3")
}
for _name in ("glm", "glm4"):
    _ROLES[_name] = {"attention": _SPLIT_PROJECTIONS["attention"], "mlp": ("gate_up_proj", "down_proj")}
_ROLES["phi3"] = {"attention": ("qkv_proj", "o_proj"), "mlp": ("gate_up_proj", "down_proj")}


@dataclass(frozen=True)
class Sites:
    """Names of a model's parts. `linears` are the linear layers of its blocks by role."""

    architecture: str
    attention: tuple[str, ...]
    mlp: tuple[str, ...]

    @property
    def linears(self) -> tuple[str, ...]:
        """Every linear layer of a block."""
        return self.attention + self.mlp


def find_sites(model: PreTrainedModel) -> Sites:
    """The table row of a model. Errors: packed.unknown_architecture."""
    architecture = str(model.config.model_type)
    roles = _ROLES.get(architecture)
    if roles is None:
        raise TunesmithError("packed.unknown_architecture", architecture=architecture, known=", ".join(sorted(_ROLES)))
    return Sites(architecture, roles["attention"], roles["mlp"])


def check_names(model: nn.Module, names: Sequence[str]) -> None:
    """Every name must be the last part of some linear layer's name. Errors: packed.no_such_module."""
    found = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for name in names:
        if name not in found:
            raise TunesmithError("packed.no_such_module", name=name, known=", ".join(sorted(found)))
