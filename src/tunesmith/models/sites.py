"""Where the parts of a model are: role to module names, by architecture. Supporting a model is a row of data."""

from __future__ import annotations

import re
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

_ROLES["qwen2_moe"] = {
    "attention": _SPLIT_PROJECTIONS["attention"],
    "mlp": ("shared_expert_gate", *_SPLIT_PROJECTIONS["mlp"]),  # of the expert that every token meets
}
for _name in ("mixtral", "qwen3_moe"):
    _ROLES[_name] = {"attention": _SPLIT_PROJECTIONS["attention"], "mlp": ()}

EMBEDDING, HEAD, NORM, BIAS = "embedding", "head", "norm", "bias"
EXPERTS, ROUTER = "experts", "router"
_OF_EXPERTS = {"experts": EXPERTS, "gate": ROUTER, "router": ROUTER}
"""Modules inside the MLP of a block with experts."""
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h)\.(\d+)\.")


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


def layer_of(name: str) -> int | None:
    """The number of the block that a parameter belongs to; None outside the blocks."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def count_layers(model: PreTrainedModel) -> int:
    """How many blocks a model has."""
    return int(model.config.get_text_config().num_hidden_layers)


def parts_of(model: PreTrainedModel) -> dict[str, frozenset[str]]:
    """The parts that each parameter belongs to: attention, mlp, norm, embedding, head, and bias beside them.

    Experts are a part of the mlp that has a name of its own; their router stands for itself. A head that is tied to the
    embedding is the same parameter, so it is both.
    Errors: packed.unknown_architecture.
    """
    sites = find_sites(model)
    roles = {**dict.fromkeys(sites.attention, "attention"), **dict.fromkeys(sites.mlp, "mlp"), "mlp": "mlp"}
    ends = {id(model.get_input_embeddings().weight): {EMBEDDING}}
    head = model.get_output_embeddings()
    if head is not None:
        ends.setdefault(id(head.weight), set()).add(HEAD)
    found: dict[str, frozenset[str]] = {}
    for name, parameter in model.named_parameters():
        modules = name.split(".")[:-1]  # an adaptation may stand inside the module that it belongs to
        parts = set(ends.get(id(parameter), ())) | {roles[each] for each in modules if each in roles}
        parts |= {_OF_EXPERTS[each] for each in modules if each in _OF_EXPERTS and "mlp" in modules}
        if ROUTER in parts:
            parts -= {"mlp", EXPERTS}
        if not parts and "norm" in modules[-1].lower():
            parts.add(NORM)
        if name.endswith(".bias"):
            parts.add(BIAS)
        found[name] = frozenset(parts)
    return found
