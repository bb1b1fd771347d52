"""A change as it lies in a folder: which kind it is, which base it is for, and how it is put on that base again.

A change that can be merged may become part of the base's own weights (`ship/merge.py`). Any other stands beside them
when it is evaluated, judged and served; how, is one function a kind, and this is their table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from tunesmith.adapt.beginning_file import published_beginning, put_on_beginning
from tunesmith.adapt.bottleneck import bottleneck_settings, put_on_bottleneck
from tunesmith.adapt.experts import experts_settings, put_on_experts
from tunesmith.adapt.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BOTTLENECK_CONFIG,
    BOTTLENECK_WEIGHTS,
    EXPERTS_CONFIG,
    EXPERTS_WEIGHTS,
    FULL_WEIGHTS,
    LORA_EXPERTS_CONFIG,
    LORA_EXPERTS_WEIGHTS,
    SUBSET_CONFIG,
    SUBSET_WEIGHTS,
)
from tunesmith.adapt.lora import published_lora, put_on_lora
from tunesmith.adapt.lora_experts import mixture_settings, put_on_mixture
from tunesmith.adapt.weights_file import put_on_weights
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import MANIFEST, verify_folder
from tunesmith.models.allowed import read_bounded
from tunesmith.models.load import BaseFolder, Loaded

PutOn = Callable[[PreTrainedModel, Path, Collection[str]], None]
"""Lets a model compute with a saved change, in place; the names are those of a task head that the change must bring."""


@dataclass(frozen=True)
class SavedKind:
    """One kind of saved change.

    `config` and `weights` are its files; whole weights have no configuration of ours. `settings` reads the
    configuration, every value checked, as it may be published. `put_on` holds every tensor against the model and lets
    the model compute with them; without `mergeable` there is no other way.
    """

    name: str
    config: str
    weights: str
    mergeable: bool
    settings: Callable[[Path], dict[str, object]]
    put_on: PutOn


def _kind_alone(change: Path) -> dict[str, object]:
    return {"kind": kind_of(change).name}


LORA = SavedKind("lora", ADAPTER_CONFIG, ADAPTER_WEIGHTS, True, published_lora, put_on_lora)
SUBSET = SavedKind("subset", SUBSET_CONFIG, SUBSET_WEIGHTS, True, _kind_alone, put_on_weights)
FULL = SavedKind("full", "", FULL_WEIGHTS, True, _kind_alone, put_on_weights)
EXPERTS = SavedKind("experts", EXPERTS_CONFIG, EXPERTS_WEIGHTS, True, experts_settings, put_on_experts)
LORA_EXPERTS = SavedKind(
    "lora-experts", LORA_EXPERTS_CONFIG, LORA_EXPERTS_WEIGHTS, False, mixture_settings, put_on_mixture
)
BOTTLENECK = SavedKind(
    "bottleneck", BOTTLENECK_CONFIG, BOTTLENECK_WEIGHTS, False, bottleneck_settings, put_on_bottleneck
)

PROMPT, P_TUNING, PREFIX = (
    SavedKind(name, ADAPTER_CONFIG, ADAPTER_WEIGHTS, False, published_beginning, put_on_beginning)
    for name in ("prompt", "p-tuning", "prefix")
)

PEFT_KINDS = {"LORA": LORA, "PROMPT_TUNING": PROMPT, "P_TUNING": P_TUNING, "PREFIX_TUNING": PREFIX}
"""Kinds whose files are PEFT's, by the type that their configuration states."""
_OWN_KINDS = (SUBSET, BOTTLENECK, EXPERTS, LORA_EXPERTS)


def kind_of(change: Path) -> SavedKind:
    """The kind of a saved change; an adapter of a type that nothing here knows counts as LoRA, which refuses it.

    Errors: ship.missing_change, models.broken_config.
    """
    if (change / ADAPTER_CONFIG).is_file():
        return PEFT_KINDS.get(str(read_bounded(change / ADAPTER_CONFIG).get("peft_type")), LORA)
    found = next((kind for kind in _OWN_KINDS if (change / kind.config).is_file()), FULL)
    if not (change / found.weights).is_file():
        raise TunesmithError("ship.missing_change", path=str(change))
    return found


def put_on(model: PreTrainedModel, change: Path, new: Collection[str] = ()) -> None:
    """Let a model compute with a saved change, in place. Errors: those of `kind_of` and of the kind's own function."""
    kind_of(change).put_on(model, change, new)


def put_beside(loaded: Loaded, base: BaseFolder, change: Path) -> Loaded:
    """Put a saved change on the base in memory that it was trained on. Errors: those of `check_base` and `put_on`."""
    check_base(base, change)
    put_on(loaded.model, change, loaded.new)
    return loaded


def check_base(base: BaseFolder, change: Path) -> None:
    """Refuse a change that was trained on other weights. Errors: ship.other_base, ship.missing_change, and those of
    `verify_folder` where the folder has a manifest: its bytes are proven before anything in it is read."""
    stated = verify_folder(change).get("base_sha256") if (change / MANIFEST).is_file() else None
    kind = kind_of(change)
    if stated is not None and stated != base.sha256:
        raise TunesmithError(
            "ship.other_base", path=str(change), trained=str(stated)[:12], given=base.sha256[:12], base=base.name
        )
    if stated is None and kind.config:
        named = read_bounded(change / kind.config).get("base_model_name_or_path")
        if isinstance(named, str) and named not in ("", base.name, str(base.path)):
            raise TunesmithError(
                "ship.other_base", path=str(change), trained=named[:200], given=base.sha256[:12], base=base.name
            )
