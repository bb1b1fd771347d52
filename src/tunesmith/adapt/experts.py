"""Experts of a model that has them: some or all move, and the routers if wanted.

On disk, in a form of our own; merging writes them into the base under its files' own names (`models/expert_files.py`):

    experts_config.json          which experts by block, whether the routers, and the base by name
    experts_model.safetensors    layers.<block>.experts.<expert>.<gate_up|down>, layers.<block>.router, and a new task
                                 head's own tensors under the names that the model has for them
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.adapt.adapter_file import other_keys, refuse_other_keys
from tunesmith.adapt.base import copy_into, named_trainable
from tunesmith.adapt.files import EXPERTS_CONFIG, EXPERTS_WEIGHTS
from tunesmith.core.errors import TunesmithError
from tunesmith.models.allowed import read_bounded
from tunesmith.models.expert_files import expert_names, router_name
from tunesmith.models.experts import ExpertLayer, choose_experts, expert_layers
from tunesmith.models.policy import Policy
from tunesmith.models.weights import read_tensors
from tunesmith.recipe.specs.adapt import ExpertsSpec

Chosen = Mapping[int, Sequence[int]]
"""Experts that move, by block."""
Load = Mapping[int, Tensor]
"""How often each expert of a block was chosen, [E]."""


class ExpertsAttached:
    """Experts of a policy that may move."""

    mergeable = True

    def __init__(
        self, policy: Policy, chosen: Chosen, router: bool, base_name: str, new: frozenset[str] = frozenset()
    ) -> None:
        self._chosen, self._router, self._base_name = chosen, router, base_name
        own = {id(parameter): name for name, parameter in policy.named_parameters()}
        self._stacks: dict[str, list[str]] = {}
        for layer in expert_layers(policy.model):
            for part, parameter in zip(("gate_up", "down"), _moving(layer), strict=True):
                places = [f"layers.{layer.layer}.experts.{expert}.{part}" for expert in chosen[layer.layer]]
                self._stacks[own[id(parameter)]] = places
        self._whole = {name: name.removeprefix("model.") for name in new}
        if router:
            for layer in expert_layers(policy.model):
                self._whole[own[id(layer.router.get_parameter("weight"))]] = f"layers.{layer.layer}.router"
        self.trainable = frozenset({*self._stacks, *self._whole})
        self._parameters = {name: each for name, each in policy.named_parameters() if name in self.trainable}

    def delta(self) -> dict[str, Tensor]:
        """The matrices of the experts that move, stacked by block, the routers' and a new head's."""
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    def load(self, delta: Mapping[str, Tensor]) -> None:
        """Put them in place."""
        copy_into(self._parameters, delta)

    def save(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """The two files, with the names of this file's first lines."""
        stated = {**_stated(self._chosen, self._router), "base_model_name_or_path": self._base_name}
        (folder / EXPERTS_CONFIG).write_text(json.dumps(stated, indent=2, sort_keys=True) + "\n", "utf-8")
        named = {self._whole[name]: each for name, each in tensors.items() if name in self._whole}
        for name, places in self._stacks.items():
            named.update(zip(places, tensors[name].unbind(), strict=True))
        whole = {name: each.contiguous().clone() for name, each in named.items()}
        save_file(whole, folder / EXPERTS_WEIGHTS, metadata={"format": "pt"})


def _moving(layer: ExpertLayer) -> tuple[nn.Parameter, nn.Parameter]:
    """What moves of a layer: tensors of their own where some are chosen, else the stacks themselves."""
    moving = dict(layer.experts.named_parameters(recurse=False))
    stacks = ("gate_up_proj", "down_proj")
    return tuple(moving.get(f"moving_{name}", moving[name]) for name in stacks)  # type: ignore[return-value]


def _stated(chosen: Chosen, router: bool) -> dict[str, object]:
    return {"kind": "experts", "experts": {str(layer): list(each) for layer, each in chosen.items()}, "router": router}


def attach_experts(
    policy: Policy, spec: ExpertsSpec, base_name: str, load: Callable[[], Load], new: frozenset[str] = frozenset()
) -> ExpertsAttached:
    """Free the experts that the spec names; everything else is frozen.

    Args:
        load: measures how often each expert is chosen, where the most used move.
        new: names of a task head's own parameters, which move too.

    Errors: adapt.no_experts, adapt.no_such_expert.
    """
    layers = expert_layers(policy.model)
    if not layers:
        raise TunesmithError("adapt.no_experts", architecture=str(policy.model.config.model_type))
    chosen = {layer.layer: _chosen(layer, spec) for layer in layers}
    if spec.most_used is not None:
        loads = load()
        chosen = {layer.layer: most_used(loads[layer.layer], spec.most_used) for layer in layers}
    for layer in layers:
        if len(chosen[layer.layer]) < layer.count:
            choose_experts(policy.model, layer, chosen[layer.layer])
    attached = ExpertsAttached(policy, chosen, spec.router, base_name, new)
    named_trainable(policy, attached.trainable)
    return attached


def _chosen(layer: ExpertLayer, spec: ExpertsSpec) -> list[int]:
    wanted = sorted(spec.experts) if isinstance(spec.experts, list) else list(range(layer.count))
    most = max(*wanted, spec.most_used - 1 if spec.most_used else 0, 0)
    if most >= layer.count:
        raise TunesmithError("adapt.no_such_expert", expert=most, layer=layer.layer, experts=layer.count)
    return wanted


def most_used(load_E: Tensor, count: int) -> list[int]:
    """The experts chosen most often, by number; of equals the lower number comes first."""
    order = torch.sort(load_E, descending=True, stable=True).indices
    return sorted(order[:count].tolist())


@dataclass(frozen=True)
class SavedExperts:
    """What a folder says: experts by block, and whether the routers stand in it."""

    chosen: Chosen
    router: bool


def experts_settings(change: Path) -> dict[str, object]:
    """The settings of saved experts, each checked. Errors: ship.adapter_setting, models.broken_config."""
    found = _read(change)
    return _stated(found.chosen, found.router)


def _read(change: Path) -> SavedExperts:
    config = read_bounded(change / EXPERTS_CONFIG)
    stated, router = config.get("experts"), config.get("router")
    if not isinstance(router, bool):
        raise TunesmithError("ship.adapter_setting", path=str(change), key="router", value=repr(router)[:80])
    chosen: dict[int, list[int]] = {}
    for layer, experts in stated.items() if isinstance(stated, dict) else ():
        whole = isinstance(experts, list) and all(type(each) is int and each >= 0 for each in experts)
        if not layer.isdecimal() or not whole or len(set(experts)) < len(experts):
            break
        chosen[int(layer)] = experts
    else:
        if chosen:
            return SavedExperts(chosen, router)
    raise TunesmithError("ship.adapter_setting", path=str(change), key="experts", value=repr(stated)[:80])


def read_experts(change: Path, new: Collection[str] = ()) -> tuple[SavedExperts, dict[str, Tensor]]:
    """A saved change with exactly the tensors that it states, and those of a task head that it must bring.

    Errors: those of `experts_settings`, ship.adapter_keys, ship.not_finite, models.broken_weights, core.missing_file.
    """
    found = _read(change)
    if not (change / EXPERTS_WEIGHTS).is_file():
        raise TunesmithError("core.missing_file", path=str(change / EXPERTS_WEIGHTS))
    tensors = read_tensors(change / EXPERTS_WEIGHTS)
    expected = [
        f"layers.{layer}.experts.{expert}.{part}"
        for layer, experts in found.chosen.items()
        for expert in experts
        for part in ("gate_up", "down")
    ]
    expected += [f"layers.{layer}.router" for layer in found.chosen] if found.router else []
    expected += new
    refuse_other_keys(change, expected, tensors)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise TunesmithError("ship.not_finite", path=str(change), tensor=name)
    return found, tensors


def in_files(architecture: str, found: SavedExperts, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The change by the names that the base's own files have. Errors: KeyError for an architecture without experts."""
    named: dict[str, Tensor] = {}
    for layer, experts in found.chosen.items():
        for expert in experts:
            gate, up, down = expert_names(architecture, layer, expert)
            place = f"layers.{layer}.experts.{expert}"
            named[gate], named[up] = tensors[f"{place}.gate_up"].chunk(2)
            named[down] = tensors[f"{place}.down"]
        if found.router:
            named[router_name(architecture, layer)] = tensors[f"layers.{layer}.router"]
    return named


def put_on_experts(model: PreTrainedModel, change: Path, new: Collection[str] = ()) -> None:
    """Put saved experts in the place of a model's own, and a task head. Errors: those of `read_experts`."""
    _, tensors = read_experts(change, new)
    layers = {layer.layer: layer for layer in expert_layers(model)}
    with torch.no_grad():
        for name, tensor in tensors.items():
            own = model.get_parameter(name) if name in new else _own(layers, name)
            if own is None or own.shape != tensor.shape:
                raise other_keys(change, [], [f"{name} {tuple(tensor.shape)}"])
            own.copy_(tensor)


def _own(layers: Mapping[int, ExpertLayer], name: str) -> Tensor | None:
    """The model's tensor that a name in files stands for; None where it has none."""
    parts = name.split(".")
    layer = layers.get(int(parts[1]))
    if layer is None:
        return None
    if parts[2] == "router":
        return layer.router.get_parameter("weight")
    expert, stack = int(parts[3]), layer.stacks[parts[4] == "down"]
    return stack[expert] if expert < layer.count else None
