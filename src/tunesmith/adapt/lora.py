"""LoRA: each chosen linear layer W gets an addition (alpha / rank) B A of low rank (Hu et al. 2021, 2106.09685).

The layers and the files on disk are PEFT's, so that any tool of the ecosystem reads what is written here.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig, PeftMixedModel, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor

from tunesmith.adapt.base import copy_into, named_trainable
from tunesmith.models.policy import Policy
from tunesmith.models.sites import check_names, find_sites
from tunesmith.recipe.specs.adapt import LoraSpec

_ADAPTER = ".default"


class LoraAttached:
    """LoRA in place on a policy."""

    mergeable = True

    def __init__(self, policy: Policy, wrapped: PeftModel | PeftMixedModel, base_name: str) -> None:
        self._config = wrapped.peft_config["default"]
        self._base_name = base_name
        self._parameters = {name: each for name, each in policy.named_parameters() if ".lora_" in name}
        self.trainable = frozenset(self._parameters)

    def delta(self) -> dict[str, Tensor]:
        """A and B of every addition."""
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    def load(self, delta: Mapping[str, Tensor]) -> None:
        """Put A and B in place."""
        copy_into(self._parameters, delta)

    def save(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """`adapter_config.json` and `adapter_model.safetensors`, with PEFT's names."""
        stated = replace(self._config, inference_mode=True, base_model_name_or_path=self._base_name)
        # PEFT writes its set of names in the order of this process's hashes; equal runs have equal bytes.
        values = {name: sorted(value) if isinstance(value, set) else value for name, value in stated.to_dict().items()}
        (folder / "adapter_config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", "utf-8")
        named = {
            f"base_model.model.{name.removeprefix('model.').replace(_ADAPTER, '')}": each.contiguous()
            for name, each in tensors.items()
        }
        save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _layers(policy: Policy, wanted: str | list[str]) -> list[str]:
    if not isinstance(wanted, str):
        return wanted
    sites = find_sites(policy.model)
    return list(sites.attention if wanted == "attention" else sites.linears)


def attach_lora(policy: Policy, spec: LoraSpec, seed: int, base_name: str) -> LoraAttached:
    """Put LoRA on a policy. A is drawn from `seed`, B is 0: before the first step nothing has changed.

    Errors: packed.unknown_architecture where the recipe leaves the layers to us, packed.no_such_module.
    """
    names = _layers(policy, spec.target_modules)
    check_names(policy.model, names)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.lora_alpha if spec.lora_alpha is not None else 2 * spec.rank,  # type: ignore[arg-type]
        lora_dropout=spec.lora_dropout,
        target_modules=names,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # PEFT reads a property of the model that transformers has renamed; the notice is for PEFT's authors.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            wrapped = get_peft_model(policy.model, config, autocast_adapter_dtype=False)
    attached = LoraAttached(policy, wrapped, base_name)
    named_trainable(policy, attached.trainable)
    return attached
