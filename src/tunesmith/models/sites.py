"""Where the parts of a model are: role to module names, by architecture. Supporting a model is a row of data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
ENCODERS = ("bert", "roberta", "xlm-roberta")
"""Architectures whose tokens look in both directions; they answer through a task head."""
for _name in ENCODERS:
    _ROLES[_name] = {
        "attention": ("query", "key", "value", "attention.output.dense"),
        "mlp": ("intermediate.dense", "output.dense"),
    }

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


def is_encoder(model: PreTrainedModel) -> bool:
    """Whether a token of the model looks at those behind it too."""
    return str(model.config.model_type) in ENCODERS


def linear_names(model: PreTrainedModel, role: str) -> list[str]:
    """How the linear layers of a role are named in a list of target modules: ends of their names in the blocks.

    Where the end of one is the end of another too (BERT's `output.dense`), blocks are named one by one.
    """
    sites = find_sites(model)
    wanted = {"attention": sites.attention, "mlp": sites.mlp}.get(role, sites.linears)
    if role != "mlp" or "output.dense" not in wanted:
        return [name for name in wanted if not any(name.endswith(f".{other}") for other in wanted)]
    blocks = [f"{place}.output.dense" for place in range(count_layers(model))]
    return [*(name for name in wanted if name != "output.dense"), *blocks]


def check_names(model: nn.Module, names: Sequence[str]) -> None:
    """Every name must be the end of some linear layer's name. Errors: packed.no_such_module."""
    found = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name in names:
        if not any(each == name or each.endswith(f".{name}") for each in found):
            known = sorted({each.rpartition(".")[2] for each in found})
            raise TunesmithError("packed.no_such_module", name=name, known=", ".join(known))


def layer_of(name: str) -> int | None:
    """The number of the block that a parameter belongs to; None outside the blocks."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def count_layers(model: PreTrainedModel) -> int:
    """How many blocks a model has."""
    return int(model.config.get_text_config().num_hidden_layers)


def first_layer(stated: int, layers: int) -> int:
    """The number of a block that is counted from 0, or from the end where it is negative.

    Errors: adapt.no_such_layer.
    """
    if not -layers <= stated < layers:
        raise TunesmithError("adapt.no_such_layer", layer=stated, layers=layers)
    return stated % layers


def parts_of(model: PreTrainedModel) -> dict[str, frozenset[str]]:
    """The parts that each parameter belongs to: attention, mlp, norm, embedding, head, and bias beside them.

    Experts are a part of the mlp that has a name of its own; their router stands for itself. A head that is tied to the
    embedding is the same parameter, so it is both.
    Errors: packed.unknown_architecture.
    """
    sites, body = find_sites(model), f"{model.base_model_prefix}."
    roles = {**dict.fromkeys(sites.attention, "attention"), **dict.fromkeys(sites.mlp, "mlp"), "mlp": "mlp"}
    ends = {id(model.get_input_embeddings().weight): {EMBEDDING}}
    for name, parameter in model.named_parameters():
        if not name.startswith(body) or ".pooler." in name:
            ends.setdefault(id(parameter), set()).add(HEAD)
    output = model.get_output_embeddings()
    if output is not None:
        ends.setdefault(id(output.weight), set()).add(HEAD)
    found: dict[str, frozenset[str]] = {}
    for name, parameter in model.named_parameters():
        modules = name.split(".")[:-1]  # an adaptation may stand inside the module that it belongs to
        parts = set(ends.get(id(parameter), ())) | _roles_of(modules, roles)
        parts |= {_OF_EXPERTS[each] for each in modules if each in _OF_EXPERTS and "mlp" in modules}
        if ROUTER in parts:
            parts -= {"mlp", EXPERTS}
        if not parts and "norm" in modules[-1].lower():
            parts.add(NORM)
        if ".embeddings." in name:
            parts.add(EMBEDDING)  # positions, kinds of segments, the norm above them
        if name.endswith(".bias"):
            parts.add(BIAS)
        found[name] = frozenset(parts)
    return found


def _roles_of(modules: Sequence[str], roles: Mapping[str, str]) -> set[str]:
    """The role of the linear layer that a module is or stands in; of several ends of its name the longest counts."""
    path = f".{'.'.join(modules)}."
    found = [end for end in roles if f".{end}." in path]
    return {roles[max(found, key=len)]} if found else set()
