"""LoRA: each chosen linear layer W gets an addition (alpha / rank) B A of low rank (Hu et al. 2021, 2106.09685).

The layers and the files on disk are PEFT's, so that any tool of the ecosystem reads what is written here. Its variants:
rsLoRA counts alpha / sqrt(rank); DoRA trains the length of every output's weights beside their turn; PiSSA
and OLoRA begin with the main directions of W, which they take out of it:

    W = (W - s B0 A0) + s B0 A0     and on disk, for the untouched W:  s (B A - B0 A0) = s [B, B0] [A; -A0]

so what is written fits the base that everybody has, at twice the rank. Of a base in codes W is its own weights, and not
what the codes stand for: what is left of them is quantised in the place of the whole (as the authors of PiSSA do), so
that there is one error instead of two; how large it is is told.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftMixedModel, PeftModel, get_peft_model, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.adapt.adapter_file import ADAPTER_PREFIX, lora_settings, other_keys, read_adapter
from tunesmith.adapt.base import Attached, copy_into, named_trainable
from tunesmith.adapt.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TASK_TYPES
from tunesmith.models.low_rank import LowRank
from tunesmith.models.policy import Policy
from tunesmith.models.quantized import QuantizedLinear, form_of, own_weights
from tunesmith.models.safetensors_header import read_header
from tunesmith.models.sites import check_names, count_layers, first_layer, linear_names
from tunesmith.recipe.specs.adapt import LoraSpec

_ADAPTER = ".default"
_SAVED = "saved"
"""Name under which PEFT keeps an adapter that was read from a folder."""


class LoraAttached:
    """LoRA in place on a policy."""

    mergeable = True

    def __init__(
        self,
        policy: Policy,
        wrapped: PeftModel | PeftMixedModel,
        base_name: str,
        new: frozenset[str],
        out_of_the_base: bool,
    ) -> None:
        self._config = cast(LoraConfig, wrapped.peft_config["default"])
        self._base_name = base_name
        self._new = new
        self._task_type = TASK_TYPES[type(policy.model).__name__.rpartition("For")[2]]
        self._parameters = {n: each for n, each in policy.named_parameters() if ".lora_" in n or n in new}
        self.trainable = frozenset(self._parameters)
        self._began = {}
        self.error: float | None = None
        """Of a base in codes that has given something up: the norm of what quantising the rest has changed, as a share
        of the norm of the base's own weights."""
        if out_of_the_base:
            # DoRA's lengths are no part of what the base has given up: they are saved as they are
            pairs = [name for name in self._parameters.keys() - new if ".lora_magnitude_vector." not in name]
            self._began = {name: self._parameters[name].detach().float().clone() for name in pairs}
            self.error = _quantise_the_rest(policy.model)

    def delta(self) -> dict[str, Tensor]:
        """A and B of every addition, and a new head."""
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    def load(self, delta: Mapping[str, Tensor]) -> None:
        """Put A and B in place."""
        copy_into(self._parameters, delta)

    def save(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """`adapter_config.json` and `adapter_model.safetensors`, with PEFT's names."""
        stated = replace(self._config, inference_mode=True, base_model_name_or_path=self._base_name)
        if self._began:
            stated, tensors = (
                _doubled(stated),
                {
                    name: _beside_its_start(name, each.float(), self._began[name]) if name in self._began else each
                    for name, each in tensors.items()
                },
            )
        if self._new:
            modules = sorted({name.split(".")[-2] for name in self._new})
            stated = replace(stated, modules_to_save=modules, task_type=self._task_type)
        # PEFT writes its set of names in the order of this process's hashes; equal runs have equal bytes.
        values = {name: sorted(value) if isinstance(value, set) else value for name, value in stated.to_dict().items()}
        (folder / ADAPTER_CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", "utf-8")
        named = {f"{ADAPTER_PREFIX}{_name_on_disk(name)}": each.contiguous() for name, each in tensors.items()}
        save_file(named, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def _quantise_the_rest(model: nn.Module) -> float | None:
    """Take what the additions begin with out of the layers in codes, which PEFT cannot; None where there are none.

    To be called where the layers say their own weights.
    """
    changed = whole = 0.0
    for layer in model.modules():
        base = layer.base_layer if isinstance(layer, LoraLayer) else None
        if not isinstance(layer, LoraLayer) or not isinstance(base, QuantizedLinear):
            continue
        name = _ADAPTER.removeprefix(".")
        low_RI, high_OR = (each[name].get_parameter("weight").detach() for each in (layer.lora_A, layer.lora_B))
        scaling = cast(dict[str, float], layer.scaling)
        part_OI = scaling[name] * (high_OR.float() @ low_RI.float())
        own_OI = base.weight.float()
        base.give_up(part_OI)
        changed += float((base.packed.dense().float() + part_OI - own_OI).square().sum())
        whole += float(own_OI.square().sum())
    return math.sqrt(changed / whole) if whole else None


def additions_of(policy: Policy, attached: Attached) -> tuple[LowRank, ...]:
    """The low-rank additions that an adaptation has put on a policy; none where it is no LoRA."""
    if not isinstance(attached, LoraAttached):
        return ()
    found: list[LowRank] = []
    for low in sorted(name for name in attached.trainable if ".lora_A." in name):
        module, _, rest = low.partition(".lora_A.")
        scaling = cast(dict[str, float], policy.get_submodule(module).scaling)
        found.append(LowRank(module, low, f"{module}.lora_B.{rest}", float(scaling[_ADAPTER.removeprefix(".")])))
    return tuple(found)


def _name_on_disk(name: str) -> str:
    """PEFT's name of a tensor in files: without the adapter's name, and DoRA's lengths without `.weight`."""
    short = name.removeprefix("model.").replace(_ADAPTER, "")
    return short.removesuffix(".weight") if short.endswith("lora_magnitude_vector.weight") else short


def _doubled(stated: LoraConfig) -> LoraConfig:
    """The settings at twice the rank, for the same factor s and an untouched base."""
    factor = math.sqrt(2) if stated.use_rslora else 2
    return replace(stated, r=2 * stated.r, lora_alpha=factor * stated.lora_alpha, init_lora_weights=True)  # type: ignore[arg-type]


def _beside_its_start(name: str, now: Tensor, start: Tensor) -> Tensor:
    """A with -A0 below it, or B with B0 to its right."""
    return torch.cat([now, -start], dim=0) if ".lora_A." in name else torch.cat([now, start], dim=1)


def no_dense() -> nn.Module:
    """Where nobody has the model in its unquantised form, no addition may begin out of its weights."""
    raise ValueError("additions that begin out of a base in codes need its own weights")


def _layers_from(policy: Policy, first: int | None) -> list[int] | None:
    """The blocks that get additions, for PEFT; None for all of them."""
    if first is None:
        return None
    layers = count_layers(policy.model)
    return list(range(first_layer(first, layers), layers))


def _layers(policy: Policy, wanted: str | list[str]) -> list[str]:
    return linear_names(policy.model, wanted) if isinstance(wanted, str) else wanted


def attach_lora(
    policy: Policy,
    spec: LoraSpec,
    seed: int,
    base_name: str,
    new: frozenset[str] = frozenset(),
    dense: Callable[[], nn.Module] = no_dense,
) -> LoraAttached:
    """Put LoRA on a policy. A is drawn from `seed`, B is 0: before the first step nothing has changed.

    Args:
        dense: the model in its unquantised form, for additions that begin out of the weights of a base in codes.

    Errors: packed.unknown_architecture where the recipe leaves the layers to us, packed.no_such_module,
        adapt.no_such_layer.
    """
    names = _layers(policy, spec.target_modules)
    check_names(policy.model, names)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.lora_alpha if spec.lora_alpha is not None else 2 * spec.rank,  # type: ignore[arg-type]
        lora_dropout=spec.lora_dropout,
        target_modules=names,
        use_rslora=spec.use_rslora,
        use_dora=spec.use_dora,
        init_lora_weights=True if spec.init_lora_weights == "default" else spec.init_lora_weights,
        layers_to_transform=_layers_from(policy, spec.first_layer),
        # told of a head, PEFT would put a copy of it in its place; a head may be new, or go on
        task_type="CAUSAL_LM" if type(policy.model).__name__.endswith("ForCausalLM") else None,
    )
    in_codes = spec.out_of_the_base and form_of(policy.model) != "none"
    with torch.random.fork_rng(devices=[]), own_weights(policy.model, dense()) if in_codes else nullcontext():
        torch.manual_seed(seed)
        # PEFT reads a property of the model that transformers has renamed; the notice is for PEFT's authors.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            wrapped = get_peft_model(policy.model, config, autocast_adapter_dtype=False)
        dtype = policy.model.dtype
        for name, parameter in policy.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.to(dtype)  # PiSSA and OLoRA come in float32
        attached = LoraAttached(policy, wrapped, base_name, new, spec.out_of_the_base)
    named_trainable(policy, attached.trainable)
    return attached


def published_lora(change: Path) -> dict[str, object]:
    """The settings of a saved LoRA as any tool of the ecosystem may read them. Errors: those of `lora_settings`."""
    settings = lora_settings(change)
    targets = settings.targets if isinstance(settings.targets, list) else _layers_on_disk(change)
    stated = settings.as_config(sorted(targets), settings.blocks)
    values = replace(stated, inference_mode=True, task_type="CAUSAL_LM").to_dict()
    return {name: sorted(value) if isinstance(value, set) else value for name, value in values.items()}


def _layers_on_disk(change: Path) -> list[str]:
    names = (name.removeprefix(ADAPTER_PREFIX) for name in read_header(change / ADAPTER_WEIGHTS))
    return sorted({name.rpartition(".lora_")[0] for name in names})


def put_on_lora(model: PreTrainedModel, change: Path, new: Collection[str] = ()) -> None:
    """Put a saved LoRA beside the weights of a model, which computes with it from then on; `new` are names of its head.

    PEFT's layers stand inside our own model, without a wrapper, so that every name but the new ones stays as it is.
    Errors: those of `read_adapter`.
    """
    adapter = read_adapter(change, dict(model.named_parameters()), new)
    layers = [name.removesuffix(".weight") for name in adapter.pairs]
    inject_adapter_in_model(adapter.settings.as_config(layers), model, adapter_name=_SAVED)
    tensors = {
        name.replace(".weight", f".lora_{side}.{_SAVED}.weight"): tensor
        for name, pair in adapter.pairs.items()
        for side, tensor in zip("AB", pair, strict=True)
    }
    tensors |= adapter.whole
    for name, length_O in adapter.lengths.items():
        tensors[name.replace(".weight", f".lora_magnitude_vector.{_SAVED}.weight")] = length_O
    result = model.load_state_dict(tensors, strict=False)
    missing = [name for name in result.missing_keys if ".lora_" in name]
    if missing or result.unexpected_keys:
        raise other_keys(change, missing, result.unexpected_keys)
    model.eval()
