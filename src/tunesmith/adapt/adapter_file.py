"""An adapter folder as PEFT writes it for LoRA: the part of its configuration that is used, and tensors that fit.

Shape letters: O outputs, I inputs of a linear layer, R rank.

PEFT itself is never given the folder's configuration: among its settings are the name of a module to import, an
expression to match names with, and files to read. A few values are read from it, each checked; a setting that would
make the merge mean something else is refused by its name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from torch import Tensor

from tunesmith.adapt.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tunesmith.core.errors import TunesmithError
from tunesmith.models.allowed import read_bounded
from tunesmith.models.sites import layer_of
from tunesmith.models.weights import read_tensors

ADAPTER_PREFIX = "base_model.model."

_USED = frozenset(
    {
        "peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "bias", "init_lora_weights", "use_dora",
        "layers_to_transform",
    }
)  # fmt: skip
_WITHOUT_EFFECT = frozenset(
    {
        "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
        "lora_dropout",
    }
)  # fmt: skip
_BASE_UNTOUCHED = (None, True, False, "gaussian", "eva", "orthogonal")
"""Ways to draw the first values of an adapter that leave the base as it was; others train beside a changed base."""

_LENGTHS = "lora_magnitude_vector"
_LARGEST_RANK = 4096
_LARGEST_ALPHA = 1e31


@dataclass(frozen=True)
class LoraSettings:
    """The settings of a LoRA that are used. `targets` is PEFT's list of layers, or an expression that is not run.

    `blocks` are the numbers of those that have additions, None for all.
    """

    rank: int
    alpha: float
    rank_stabilised: bool
    has_lengths: bool
    targets: str | list[str]
    blocks: list[int] | None

    @property
    def scale(self) -> float:
        """alpha / R, or alpha / sqrt(R) for rank-stabilised LoRA (arXiv 2312.03732)."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilised else self.rank)

    def as_config(self, targets: list[str], blocks: list[int] | None = None) -> LoraConfig:
        """PEFT's configuration with these settings and nothing else that a file may say."""
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            use_rslora=self.rank_stabilised,
            use_dora=self.has_lengths,
            target_modules=targets,
            layers_to_transform=blocks,
        )


@dataclass(frozen=True)
class Adapter:
    """A LoRA. `pairs` are (A [R, I], B [O, R]) by the name of the base's weight.

    `lengths` [O] are DoRA's, by the same names; empty without it. `whole` are tensors that stand in place of the
    base's: a task head.
    """

    settings: LoraSettings
    pairs: Mapping[str, tuple[Tensor, Tensor]]
    lengths: Mapping[str, Tensor]
    whole: Mapping[str, Tensor]

    def applied_to(self, name: str, weight_OI: Tensor) -> Tensor:
        """A weight of the base with what the adapter adds, [O, I] float32; DoRA then gives every row its length."""
        a_RI, b_OR = self.pairs[name]
        moved_OI: Tensor = weight_OI.float() + self.settings.scale * (b_OR @ a_RI)
        if name not in self.lengths:
            return moved_OI
        now_O = torch.linalg.vector_norm(moved_OI, dim=1)
        turned_OI: Tensor = moved_OI * (self.lengths[name] / now_O)[:, None]
        return turned_OI


def lora_settings(change: Path, *, has_head: bool = False) -> LoraSettings:
    """The settings of an adapter folder, each checked; with `has_head` a task head may come with it.

    Errors: ship.unmergeable, ship.adapter_setting, models.broken_config.
    """
    config = read_bounded(change / ADAPTER_CONFIG)
    _refuse_unmergeable(change, config, has_new=has_head)
    rank = config.get("r")
    if type(rank) is not int or not 0 < rank <= _LARGEST_RANK:
        raise _setting(change, "r", rank)
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < abs(alpha) < _LARGEST_ALPHA:
        raise _setting(change, "lora_alpha", alpha)
    stabilised, has_lengths = _switch(change, config, "use_rslora"), _switch(change, config, "use_dora")
    targets = config.get("target_modules")
    if not isinstance(targets, str | list) or not all(isinstance(each, str) for each in targets):
        raise _setting(change, "target_modules", targets)
    blocks = config.get("layers_to_transform")
    if blocks is not None and not (isinstance(blocks, list) and blocks and all(type(each) is int for each in blocks)):
        raise _setting(change, "layers_to_transform", blocks)
    return LoraSettings(rank, float(alpha), stabilised, has_lengths, targets, blocks)


def read_adapter(change: Path, base: Mapping[str, Tensor], new: Collection[str] = ()) -> Adapter:
    """Read an adapter folder and hold every tensor of it to the base it is for.

    Args:
        base: the base's weights by name; only their shapes are looked at.
        new: names among them that the adapter must bring whole: those of a task head.

    Errors: ship.unmergeable, ship.adapter_setting, ship.adapter_keys, models.broken_config, models.broken_weights,
        core.missing_file.
    """
    settings = lora_settings(change, has_head=bool(new))
    if not (change / ADAPTER_WEIGHTS).is_file():
        raise TunesmithError("core.missing_file", path=str(change / ADAPTER_WEIGHTS))
    stored = read_tensors(change / ADAPTER_WEIGHTS)
    layers = _layers(settings, stored, base)
    expected = {f"{ADAPTER_PREFIX}{layer}.lora_{side}.weight" for layer in layers for side in "AB"}
    if settings.has_lengths:
        expected |= {f"{ADAPTER_PREFIX}{layer}.{_LENGTHS}" for layer in layers}
    expected |= {f"{ADAPTER_PREFIX}{name}" for name in new}
    refuse_other_keys(change, expected, stored)
    whole = {name: stored[f"{ADAPTER_PREFIX}{name}"].float() for name in new}
    for name, tensor in whole.items():
        if tensor.shape != base[name].shape:
            raise other_keys(change, [], [f"{name} {tuple(tensor.shape)}"])
    lengths: dict[str, Tensor] = {}
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for layer in layers:
        a_RI, b_OR = (stored[f"{ADAPTER_PREFIX}{layer}.lora_{side}.weight"].float() for side in "AB")
        outputs, inputs = base[f"{layer}.weight"].shape
        if a_RI.shape != (settings.rank, inputs) or b_OR.shape != (outputs, settings.rank):
            shapes = f"{layer} {tuple(a_RI.shape)} {tuple(b_OR.shape)}, rank {settings.rank}"
            raise other_keys(change, [], [shapes])
        pairs[f"{layer}.weight"] = (a_RI, b_OR)
        if settings.has_lengths:
            lengths[f"{layer}.weight"] = length_O = stored[f"{ADAPTER_PREFIX}{layer}.{_LENGTHS}"].float()
            if length_O.shape != (outputs,):
                raise other_keys(change, [], [f"{layer}.{_LENGTHS} {tuple(length_O.shape)}"])
    return Adapter(settings, pairs, lengths, whole)


def _switch(change: Path, config: Mapping[str, object], name: str) -> bool:
    stated = config.get(name) or False
    if not isinstance(stated, bool):
        raise _setting(change, name, stated)
    return stated


def refuse_other_keys(change: Path, expected: Iterable[str], found: Iterable[str]) -> None:
    """Every name that is expected must be there, and no other. Errors: ship.adapter_keys."""
    wanted, given = set(expected), set(found)
    if wanted != given or not wanted:
        raise other_keys(change, sorted(wanted - given), sorted(given - wanted))


def other_keys(change: Path, missing: Sequence[str], extra: Sequence[str]) -> TunesmithError:
    """The error that names tensors which do not fit."""
    shown = {"missing": ", ".join(missing[:2]) or "-", "extra": ", ".join(extra[:2]) or "-"}
    return TunesmithError("ship.adapter_keys", path=str(change), **shown)


def _refuse_unmergeable(change: Path, config: Mapping[str, object], *, has_new: bool) -> None:
    usual, used = LoraConfig().to_dict(), _USED | _WITHOUT_EFFECT | ({"modules_to_save"} if has_new else set())
    odd = [key for key, value in config.items() if key not in used and value and value != usual.get(key)]
    if config.get("bias") not in (None, "none"):
        odd.append("bias")
    if config.get("init_lora_weights") not in _BASE_UNTOUCHED:
        odd.append("init_lora_weights")
    if config.get("peft_type") != "LORA":
        odd.append(f"peft_type = {str(config.get('peft_type'))[:50]}")
    if odd:
        raise TunesmithError("ship.unmergeable", path=str(change), what=", ".join(odd)[:300])


def _layers(settings: LoraSettings, stored: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> list[str]:
    """The linear layers of the base that the adapter is for: those that its list names, in the blocks that it names.

    Where the configuration has an expression in place of a list, the tensors say it: an expression of others is not
    run.
    """
    linear = [name.removesuffix(".weight") for name, weight in base.items() if weight.dim() == 2]
    if settings.blocks is not None:
        linear = [layer for layer in linear if layer_of(f"{layer}.") in settings.blocks]
    wanted = settings.targets
    if isinstance(wanted, list):
        return [layer for layer in linear if any(layer == each or layer.endswith(f".{each}") for each in wanted)]
    named = {name.removeprefix(ADAPTER_PREFIX).rpartition(".lora_")[0] for name in stored}
    return [layer for layer in linear if layer in named]


def _setting(change: Path, key: str, value: object) -> TunesmithError:
    return TunesmithError("ship.adapter_setting", path=str(change), key=key, value=repr(value)[:80])
