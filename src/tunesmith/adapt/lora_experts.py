"""LoRA experts with a router over a dense base: made, added to, changed or thinned out one by one.

On disk, in a form of our own (`models/lora_experts.py` has the formula); an expert's number is its own for life:

    lora_experts_config.json          rank, lora_alpha, top_k, the experts' numbers, and the base by name
    lora_experts_model.safetensors    layers.<block>.experts.<expert>.<gate_proj|up_proj|down_proj>.<A|B>,
                                      layers.<block>.experts.<expert>.router.weight, and a new task head's own
                                      tensors under the names that the model has for them
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.adapt.adapter_file import other_keys, refuse_other_keys
from tunesmith.adapt.base import copy_into, named_trainable
from tunesmith.adapt.files import LORA_EXPERTS_CONFIG, LORA_EXPERTS_WEIGHTS
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import MANIFEST, verify_folder
from tunesmith.models.allowed import read_bounded
from tunesmith.models.lora_experts import Mixture, place_mixtures
from tunesmith.models.policy import Policy
from tunesmith.models.sites import count_layers
from tunesmith.models.weights import read_tensors
from tunesmith.recipe.specs.adapt import LoraExpertsSpec

_LARGEST = 4096


@dataclass(frozen=True)
class MixtureSettings:
    """What a folder says of its experts."""

    rank: int
    alpha: float
    top_k: int
    experts: tuple[int, ...]

    @property
    def scale(self) -> float:
        """What an addition counts with."""
        return self.alpha / self.rank

    def stated(self) -> dict[str, object]:
        """As the configuration has it."""
        return {
            "kind": "lora-experts",
            "rank": self.rank,
            "lora_alpha": self.alpha,
            "top_k": self.top_k,
            "experts": list(self.experts),
        }


class LoraExpertsAttached:
    """LoRA experts in place on a policy; some may stand still."""

    mergeable = False

    def __init__(
        self,
        policy: Policy,
        placed: Mapping[int, Mixture],
        settings: MixtureSettings,
        moving: Collection[int],
        came: Mapping[str, Tensor],
        base_name: str,
        new: frozenset[str] = frozenset(),
    ) -> None:
        own = {id(parameter): name for name, parameter in policy.named_parameters()}
        self._on_disk = {own[id(each)]: name for name, each in _parameters(placed).items()}
        self._on_disk |= {name: name.removeprefix("model.") for name in new}
        self._all = {name: each for name, each in policy.named_parameters() if name in self._on_disk}
        self._settings, self._base_name = settings, base_name
        self.trainable = new | {name for name, stored in self._on_disk.items() if _expert_of(stored) in moving}
        # in the number format of the file, which may be wider than the model's
        self._still = {name: each for name, each in came.items() if _expert_of(name) not in moving}
        self.begin = {
            name: came[stored] for name, stored in self._on_disk.items() if stored in came.keys() - self._still
        }
        """What those that move begin as, in the number format of the file too: for the masters."""

    def delta(self) -> dict[str, Tensor]:
        """The experts that move, with their rows of the router, and a new head."""
        return {name: each.detach() for name, each in self._all.items() if name in self.trainable}

    def load(self, delta: Mapping[str, Tensor]) -> None:
        """Put them in place."""
        copy_into({name: each for name, each in self._all.items() if name in self.trainable}, delta)

    def save(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """The two files with all experts, those that stand still as they came."""
        stated = {**self._settings.stated(), "base_model_name_or_path": self._base_name}
        (folder / LORA_EXPERTS_CONFIG).write_text(json.dumps(stated, indent=2, sort_keys=True) + "\n", "utf-8")
        named = {self._on_disk[name]: each.contiguous() for name, each in tensors.items()}
        save_file({**self._still, **named}, folder / LORA_EXPERTS_WEIGHTS, metadata={"format": "pt"})


def attach_lora_experts(
    policy: Policy, spec: LoraExpertsSpec, seed: int, base_name: str, new: frozenset[str] = frozenset()
) -> LoraExpertsAttached:
    """Put LoRA experts on a policy: new ones, or those of `spec.start` with what the spec changes about them.

    `new` are names of a task head's own parameters, which move too; a head that `start` has is left behind.

    Errors: adapt.no_place, adapt.start_differs, adapt.no_such_lora_expert, those of `read_mixture`.
    """
    before, stored = (None, {}) if spec.start is None else read_mixture(Path(spec.start))
    settings = _settings(spec, before)
    kept = [expert for expert in settings.experts if before is not None and expert in before.experts]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        placed = _place(policy.model, settings)
    came = {name: tensor for name, tensor in stored.items() if _expert_of(name) in kept}
    if spec.start is not None:
        expected = [name for name in _parameters(placed) if _expert_of(name) in kept]
        refuse_other_keys(Path(spec.start), expected, came)
        _copy(Path(spec.start), _parameters(placed), came)
    moving = {*spec.update, *(expert for expert in settings.experts if expert not in kept)}
    attached = LoraExpertsAttached(policy, placed, settings, moving, came, base_name, new)
    named_trainable(policy, attached.trainable)
    return attached


def _settings(spec: LoraExpertsSpec, before: MixtureSettings | None) -> MixtureSettings:
    if before is None:
        rank = spec.rank or 8
        return MixtureSettings(rank, spec.lora_alpha or 2.0 * rank, spec.top_k or 2, tuple(range(spec.new_experts)))
    for expert in (*spec.update, *spec.remove):
        if expert not in before.experts:
            known = ", ".join(map(str, before.experts))
            raise TunesmithError("adapt.no_such_lora_expert", expert=expert, known=known)
    for name, stated, was in (
        ("rank", spec.rank, before.rank),
        ("lora_alpha", spec.lora_alpha, before.alpha),
        ("top_k", spec.top_k, before.top_k),
    ):
        if stated not in (None, was):
            raise TunesmithError("adapt.start_differs", setting=name, stated=str(stated), was=str(was))
    first = max(before.experts) + 1
    kept = [expert for expert in before.experts if expert not in spec.remove]
    experts = (*kept, *range(first, first + spec.new_experts))
    return MixtureSettings(before.rank, before.alpha, before.top_k, experts)


def mixture_settings(change: Path) -> dict[str, object]:
    """The settings of saved LoRA experts, each checked. Errors: ship.adapter_setting, models.broken_config."""
    return _read_settings(change).stated()


def _read_settings(change: Path) -> MixtureSettings:
    config = read_bounded(change / LORA_EXPERTS_CONFIG)
    rank, alpha, top_k, experts = (config.get(key) for key in ("rank", "lora_alpha", "top_k", "experts"))
    listed = experts if isinstance(experts, list) else []
    whole = bool(listed) and all(type(each) is int and 0 <= each < 2**31 for each in listed)
    known = {
        "rank": type(rank) is int and 0 < rank <= _LARGEST,
        "lora_alpha": isinstance(alpha, int | float) and not isinstance(alpha, bool) and 0 < alpha <= 1e31,
        "top_k": type(top_k) is int and 0 < top_k <= _LARGEST,
        "experts": whole and len(set(listed)) == len(listed) <= _LARGEST,
    }
    for key, is_known in known.items():
        if not is_known:
            raise TunesmithError("ship.adapter_setting", path=str(change), key=key, value=repr(config.get(key))[:80])
    return MixtureSettings(int(str(rank)), float(str(alpha)), int(str(top_k)), tuple(listed))


def read_mixture(change: Path) -> tuple[MixtureSettings, dict[str, Tensor]]:
    """Saved LoRA experts: settings and tensors.

    Errors: core.missing_file, core.hash_differs and others where the folder has a manifest, those of
        `mixture_settings`, models.broken_weights, ship.not_finite.
    """
    for name in (LORA_EXPERTS_CONFIG, LORA_EXPERTS_WEIGHTS):
        if not (change / name).is_file():
            raise TunesmithError("core.missing_file", path=str(change / name))
    if (change / MANIFEST).is_file():
        verify_folder(change)
    settings, tensors = _read_settings(change), read_tensors(change / LORA_EXPERTS_WEIGHTS)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise TunesmithError("ship.not_finite", path=str(change), tensor=name)
    return settings, tensors


def put_on_mixture(model: PreTrainedModel, change: Path, new: Collection[str] = ()) -> None:
    """Put saved LoRA experts on a model, and a task head. Errors: those of `read_mixture`, adapt.no_place,
    ship.adapter_keys, ship.no_change."""
    settings, tensors = read_mixture(change)
    placed = _place(model, settings)
    parameters = {**_parameters(placed), **{name: model.get_parameter(name) for name in new}}
    refuse_other_keys(change, parameters, tensors)
    _copy(change, parameters, tensors)
    for each in parameters.values():
        each.requires_grad_(False)
    if not any(tensor.any() for name, tensor in tensors.items() if name.endswith(".B")):
        raise TunesmithError("ship.no_change", path=str(change))
    model.eval()


def _place(model: PreTrainedModel, settings: MixtureSettings) -> dict[int, Mixture]:
    placed = place_mixtures(model, settings.experts, settings.rank, settings.scale, settings.top_k)
    if len(placed) != count_layers(model):
        architecture = str(model.config.model_type)
        raise TunesmithError("adapt.no_place", places="lora-experts", architecture=architecture, found=len(placed))
    return placed


def _copy(change: Path, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.shape != parameters[name].shape:
            raise other_keys(change, [], [f"{name} {tuple(tensor.shape)}"])
        parameters[name].data.copy_(tensor)


def _parameters(placed: Mapping[int, Mixture]) -> dict[str, nn.Parameter]:
    """The parameters of LoRA experts by their names in files."""
    return {
        f"layers.{layer}.experts.{name}": parameter
        for layer, mixture in placed.items()
        for name, parameter in mixture.experts.named_parameters()
    }


def _expert_of(name: str) -> int:
    """The number of the expert in a name of a file; -1 where there is none."""
    parts = name.split(".")
    return int(parts[3]) if len(parts) > 3 and parts[3].isdecimal() else -1
