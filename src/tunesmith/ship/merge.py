"""Adapter + base -> merged weights, in float32; or the weights of a full fine-tune as they are.

Shape letters: O outputs, I inputs of a linear layer, R rank.

    W_OI + scale * B_OR A_RI,   scale = alpha / R, or alpha / sqrt(R) for rank-stabilised LoRA (arXiv 2312.03732)

Every tensor of the adapter must be used and every layer that it names must have its pair: an adapter that fits only
in part changes the model into something nobody evaluated. A change of zero is refused as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import MANIFEST, read_json, verify_folder
from tunesmith.models.load import BaseFolder, Loaded

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
FULL_WEIGHTS = "model.safetensors"
ADAPTER_PREFIX = "base_model.model."
_UNSUPPORTED = ("use_dora", "fan_in_fan_out", "modules_to_save", "layers_to_transform", "rank_pattern", "alpha_pattern",
                "trainable_token_indices", "target_parameters", "exclude_modules")  # fmt: skip


@dataclass(frozen=True)
class Merged:
    """Merged weights by their names in the Hugging Face layout, and the names of those that moved."""

    tensors: Mapping[str, Tensor]
    changed: tuple[str, ...]
    kind: str


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter (and not the weights of a whole model)."""
    return (folder / ADAPTER_CONFIG).is_file()


def merge(base: BaseFolder, change: Path) -> Merged:
    """Merge an adapter folder, or take a full fine-tune's folder, over a base.

    Errors: ship.other_base, ship.unmergeable, ship.adapter_keys, ship.no_change, ship.missing_change,
        models.broken_weights, and those of `verify_folder` when the folder carries a manifest.
    """
    check_base(base, change)
    weights = read_weights(base.path)
    if not is_adapter(change):
        return _full(change, weights)
    pairs, scale = _pairs(change, weights)
    changed: list[str] = []
    for name, (a_RI, b_OR) in pairs.items():
        moved_OI = weights[name].float() + scale * (b_OR @ a_RI)
        if not torch.equal(moved_OI, weights[name].float()):
            changed.append(name)
        weights[name] = moved_OI
    if not changed:
        raise TunesmithError("ship.no_change", path=str(change))
    return Merged(weights, tuple(changed), "lora")


def merge_into(loaded: Loaded, base: BaseFolder, change: Path) -> Loaded:
    """Put the merged weights into the base in memory, in place, in its own number format. Errors: those of `merge`."""
    merged = merge(base, change)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            parameter.copy_(merged.tensors[name])
    return loaded


def check_base(base: BaseFolder, change: Path) -> None:
    """Refuse a change that was trained on other weights. Errors: ship.other_base, ship.missing_change."""
    if not is_adapter(change) and not (change / FULL_WEIGHTS).is_file():
        raise TunesmithError("ship.missing_change", path=str(change))
    stated = verify_folder(change).get("base_sha256") if (change / MANIFEST).is_file() else None
    if stated is not None and stated != base.sha256:
        raise TunesmithError(
            "ship.other_base", path=str(change), trained=str(stated)[:12], given=base.sha256[:12], base=base.name
        )
    if stated is None and is_adapter(change):
        named = read_json(change / ADAPTER_CONFIG).get("base_model_name_or_path")
        if named not in (None, "", base.name, str(base.path)):
            raise TunesmithError(
                "ship.other_base", path=str(change), trained=str(named), given=base.sha256[:12], base=base.name
            )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors files, shards joined. Errors: models.broken_weights."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors.update(read_file(path))
    return tensors


def read_file(path: Path) -> dict[str, Tensor]:
    """All tensors of one safetensors file. Errors: models.broken_weights."""
    try:
        with safe_open(str(path), framework="pt") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}
    except (SafetensorError, OSError) as error:
        raise TunesmithError("models.broken_weights", path=str(path), reason=str(error)) from error


def _full(change: Path, base: Mapping[str, Tensor]) -> Merged:
    weights = read_file(change / FULL_WEIGHTS)
    if "lm_head.weight" in weights and "lm_head.weight" not in base:
        del weights["lm_head.weight"]  # tied: the embedding is the head
    _compare_keys(change, expected=set(base), found=set(weights))
    for name, tensor in weights.items():
        if tensor.shape != base[name].shape:
            raise TunesmithError("ship.adapter_keys", path=str(change), missing="-", extra=f"{name} (shape)")
    changed = tuple(name for name, tensor in weights.items() if not torch.equal(tensor.float(), base[name].float()))
    if not changed:
        raise TunesmithError("ship.no_change", path=str(change))
    return Merged(weights, changed, "full")


def _pairs(change: Path, base: Mapping[str, Tensor]) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
    """(A, B) by the name of the weight that they change, and the scale."""
    config = read_json(change / ADAPTER_CONFIG)
    _check_config(change, config)
    stored = read_file(change / ADAPTER_WEIGHTS)
    targets = _targets(config, base)
    parts = {name: name.removesuffix(".weight") for name in targets}
    expected = {f"{ADAPTER_PREFIX}{part}.lora_{side}.weight" for part in parts.values() for side in "AB"}
    _compare_keys(change, expected, set(stored))
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for name, part in parts.items():
        a_RI, b_OR = (stored[f"{ADAPTER_PREFIX}{part}.lora_{side}.weight"].float() for side in "AB")
        if b_OR.shape[1] != a_RI.shape[0] or (b_OR.shape[0], a_RI.shape[1]) != tuple(base[name].shape):
            raise TunesmithError("ship.adapter_keys", path=str(change), missing="-", extra=f"{part} (shape)")
        pairs[name] = (a_RI, b_OR)
    rank, alpha = float(str(config["r"])), float(str(config["lora_alpha"]))
    return pairs, alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _check_config(change: Path, config: Mapping[str, object]) -> None:
    odd = [key for key in _UNSUPPORTED if config.get(key)]
    if config.get("bias") not in (None, "none"):
        odd.append("bias")
    if str(config.get("peft_type")) != "LORA":
        odd.append(f"peft_type = {config.get('peft_type')}")
    if odd:
        raise TunesmithError("ship.unmergeable", path=str(change), what=", ".join(odd))


def _targets(config: Mapping[str, object], base: Mapping[str, Tensor]) -> list[str]:
    """Names of the base's weights that the adapter says it changes."""
    stated = config.get("target_modules")
    layers = [name for name, tensor in base.items() if name.endswith(".weight") and tensor.dim() == 2]
    if isinstance(stated, str):
        return [name for name in layers if re.fullmatch(stated, name.removesuffix(".weight"))]
    wanted: Sequence[str] = [str(each) for each in stated] if isinstance(stated, list) else []
    return [
        name
        for name in layers
        if any((part := name.removesuffix(".weight")) == each or part.endswith(f".{each}") for each in wanted)
    ]


def _compare_keys(change: Path, expected: set[str], found: set[str]) -> None:
    missing, extra = sorted(expected - found), sorted(found - expected)
    if missing or extra or not expected:
        raise TunesmithError(
            "ship.adapter_keys",
            path=str(change),
            missing=", ".join(missing[:2]) or "-",
            extra=", ".join(extra[:2]) or "-",
        )
