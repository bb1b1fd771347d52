"""A learned beginning as PEFT saves it: the part of its configuration that is used, and numbers that fit the model.

PEFT itself is never given the configuration of a folder (see `adapter_file.py`). A network that gave the numbers while
they trained is not in the file, so its settings are without effect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from peft.config import PromptLearningConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.adapt.adapter_file import other_keys, refuse_other_keys
from tunesmith.adapt.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TASK_TYPES
from tunesmith.core.errors import TunesmithError
from tunesmith.models.allowed import read_bounded
from tunesmith.models.beginning import Beginning, LearnedKeys, VirtualTokens, put_beginning, shape_of_keys
from tunesmith.models.safetensors_header import read_header
from tunesmith.models.weights import read_tensors

NUMBERS = "prompt_embeddings"
"""PEFT's name of the tensor [P, N]; without a task head there is no other."""
_HEAD = "base_model."
CONFIGS: Mapping[str, type[PromptLearningConfig]] = {
    "PREFIX_TUNING": PrefixTuningConfig,
    "PROMPT_TUNING": PromptTuningConfig,
    "P_TUNING": PromptEncoderConfig,
}
"""PEFT's configurations by the type that they state."""

_SIZES = ("num_virtual_tokens", "num_layers", "token_dim", "num_attention_heads")
_MOST = 1 << 20
_WITHOUT_EFFECT = frozenset(
    {
        "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
        "inference_mode", "num_transformer_submodules", "prompt_tuning_init", "prompt_tuning_init_text",
        "tokenizer_name_or_path", "tokenizer_kwargs", "prefix_projection", "init_weights",
        "encoder_reparameterization_type", "encoder_hidden_size", "encoder_num_layers", "encoder_dropout",
    }
)  # fmt: skip
"""Settings of the training, those that every file of PEFT has, and one that is looked at apart."""


@dataclass(frozen=True)
class BeginningSettings:
    """The settings of a saved beginning that are used; `kind` is PEFT's type of it."""

    kind: str
    num_virtual_tokens: int
    num_layers: int
    token_dim: int
    num_attention_heads: int

    @property
    def numbers(self) -> int:
        """N, the numbers of one place."""
        return self.token_dim * (2 * self.num_layers if self.kind == "PREFIX_TUNING" else 1)


def beginning_settings(change: Path, *, has_head: bool = False) -> BeginningSettings:
    """The settings of a folder, each checked; with `has_head` a task head may come with it.

    Errors: ship.adapter_setting, models.broken_config.
    """
    config = read_bounded(change / ADAPTER_CONFIG)
    for key, value in config.items():
        if value and key not in _WITHOUT_EFFECT and key not in _SIZES and not (has_head and key == "modules_to_save"):
            raise _setting(change, key, value)
    if config.get("num_transformer_submodules") not in (None, 1):
        raise _setting(change, "num_transformer_submodules", config["num_transformer_submodules"])
    sizes: dict[str, int] = {}
    for name in _SIZES:
        value = config.get(name)
        if type(value) is not int or not 0 < value <= _MOST:
            raise _setting(change, name, value)
        sizes[name] = value
    return BeginningSettings(str(config["peft_type"]), **sizes)


def name_on_disk(name: str) -> str:
    """PEFT's name of a tensor of a task head, which stands beside the numbers in their file."""
    return f"{_HEAD}{name.removeprefix('model.')}"


def head_modules(model: PreTrainedModel, names: Iterable[str]) -> list[str]:
    """PEFT's names of the modules that a task head is made of, for its parameters in the policy."""
    parts = [name.removeprefix("model.").removeprefix(f"{model.base_model_prefix}.") for name in names]
    return sorted({each.partition(".")[0] for each in parts})


def task_type(model: PreTrainedModel) -> str:
    """PEFT's word for what a model answers."""
    return TASK_TYPES[type(model).__name__.rpartition("For")[2]]


def published_beginning(change: Path) -> dict[str, object]:
    """The settings as any tool of the ecosystem may read them. Errors: those of `beginning_settings`."""
    heads = [name for name in read_header(change / ADAPTER_WEIGHTS) if name != NUMBERS]
    settings = beginning_settings(change, has_head=bool(heads))
    sizes = {name: getattr(settings, name) for name in _SIZES}
    stated = CONFIGS[settings.kind](**sizes, num_transformer_submodules=1, inference_mode=True, task_type="CAUSAL_LM")
    if heads:
        config = read_bounded(change / ADAPTER_CONFIG)
        modules, answers = config.get("modules_to_save"), config.get("task_type")
        in_names = {part for name in heads for part in name.split(".")}
        if not isinstance(modules, list) or not set(map(str, modules)) <= in_names:
            raise _setting(change, "modules_to_save", modules)
        if answers not in TASK_TYPES.values():
            raise _setting(change, "task_type", answers)
        stated.modules_to_save, stated.task_type = sorted(set(map(str, modules))), str(answers)
    return dict(stated.to_dict())


def put_on_beginning(model: PreTrainedModel, change: Path, new: Collection[str] = ()) -> None:
    """Put a saved beginning before everything that the model reads.

    Errors: ship.adapter_setting, ship.adapter_keys, ship.not_finite, packed.beginning_window, models.broken_weights.
    """
    settings = beginning_settings(change, has_head=bool(new))
    _hold_to(model, change, settings)
    stored = read_tensors(change / ADAPTER_WEIGHTS)
    refuse_other_keys(change, [NUMBERS, *map(name_on_disk, new)], stored)
    _put_head(model, change, {name: stored[name_on_disk(name)] for name in new})
    numbers_PN, length = stored[NUMBERS], settings.num_virtual_tokens
    if numbers_PN.shape != (length, settings.numbers):
        raise other_keys(change, [], [f"{NUMBERS} {tuple(numbers_PN.shape)}"])
    for name, tensor in stored.items():
        if not bool(torch.isfinite(tensor).all()):
            raise TunesmithError("ship.not_finite", path=str(change), tensor=name)
    encoder = nn.Embedding(*numbers_PN.shape, _weight=numbers_PN.float().to(model.device), _freeze=True)
    beginning: Beginning
    if settings.kind == "PREFIX_TUNING":
        beginning = LearnedKeys(encoder, length, settings.num_layers, settings.num_attention_heads)
    else:
        beginning = VirtualTokens(encoder, length)
    put_beginning(model, beginning)
    model.eval()


def _put_head(model: PreTrainedModel, change: Path, tensors: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        if tensor.shape != parameters[name].shape:
            raise other_keys(change, [], [f"{name} {tuple(tensor.shape)}"])
        parameters[name].data.copy_(tensor)


def _hold_to(model: PreTrainedModel, change: Path, settings: BeginningSettings) -> None:
    """The sizes must be the model's. Errors: ship.adapter_setting."""
    layers, groups, size = shape_of_keys(model)
    expected = {"num_layers": layers}
    if settings.kind == "PREFIX_TUNING":
        expected |= {"num_attention_heads": groups, "token_dim": groups * size}
    else:
        expected |= {"token_dim": int(model.config.get_text_config().hidden_size)}
    for name, value in expected.items():
        if getattr(settings, name) != value:
            raise _setting(change, name, getattr(settings, name))


def _setting(change: Path, key: str, value: object) -> TunesmithError:
    return TunesmithError("ship.adapter_setting", path=str(change), key=key, value=repr(value)[:80])
