"""Learned beginnings: prompt tuning, P-Tuning, prefix tuning and P-Tuning v2 (see `models/beginning.py`).

The small networks that give the numbers while they train are PEFT's own, and so is what is written: the configuration,
and the numbers themselves as `prompt_embeddings`. A network is needed for training alone; it stays in the checkpoints.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from peft.config import PromptLearningConfig
from peft.tuners import PrefixEncoder, PromptEncoder
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from tunesmith.adapt.base import copy_into, named_trainable
from tunesmith.adapt.beginning_file import NUMBERS, head_modules, name_on_disk, task_type
from tunesmith.adapt.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tunesmith.core.errors import TunesmithError
from tunesmith.models.beginning import BEGINNING, Beginning, LearnedKeys, VirtualTokens, put_beginning, shape_of_keys
from tunesmith.models.policy import Policy
from tunesmith.models.sites import is_encoder
from tunesmith.recipe.specs.beginnings import BeginningSpec, PrefixSpec, PromptSpec, PTuningSpec

Encode = Callable[[str], Sequence[int]]
"""Token ids of a text, without control tokens."""

_PREFIX = f"model.{BEGINNING}."


class BeginningAttached:
    """A learned beginning in place on a policy."""

    mergeable = False

    def __init__(self, policy: Policy, beginning: Beginning, config: PromptLearningConfig, new: frozenset[str]) -> None:
        self._beginning = beginning
        self._config = config
        own = {name: each for name, each in policy.named_parameters() if name.startswith(_PREFIX) or name in new}
        self._parameters = own
        self.trainable = frozenset(self._parameters)

    def delta(self) -> dict[str, Tensor]:
        """What trains: the numbers, or the network that gives them, and a new head."""
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    def load(self, delta: Mapping[str, Tensor]) -> None:
        """Put it in place."""
        copy_into(self._parameters, delta)

    def save(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """`adapter_config.json` and `adapter_model.safetensors`, as PEFT writes them: what the network gives."""
        values = self._config.to_dict()
        (folder / ADAPTER_CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", "utf-8")
        own = {name.removeprefix(_PREFIX): each for name, each in tensors.items() if name.startswith(_PREFIX)}
        with torch.no_grad():
            numbers_PN: Tensor = functional_call(self._beginning, own, ())
        named = {NUMBERS: numbers_PN.detach().cpu().contiguous()}
        named |= {name_on_disk(name): tensors[name].contiguous() for name in tensors if not name.startswith(_PREFIX)}
        save_file(named, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def attach_beginning(
    policy: Policy,
    spec: BeginningSpec,
    seed: int,
    base_name: str,
    encode: Encode,
    new: frozenset[str] = frozenset(),
) -> BeginningAttached:
    """Put a learned beginning before every row; the model itself is frozen.

    What trains is float32 or wider, also where the model is not: it is little, and its steps are small.

    Args:
        new: names of a task head that the base has no weights for; it trains too.

    Errors: packed.beginning_window, adapt.beginning_both_ways, adapt.beginning_without_tokens.
    """
    if is_encoder(policy.model) and not isinstance(spec, PrefixSpec):
        raise TunesmithError(
            "adapt.beginning_both_ways", kind=spec.kind, architecture=str(policy.model.config.model_type)
        )
    config = _config(policy.model, spec, base_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        beginning = _beginning(policy.model, spec, config, encode)
    put_beginning(policy.model, beginning.to(policy.device, torch.promote_types(policy.model.dtype, torch.float32)))
    stated = type(config)(**{**vars(config), "inference_mode": True})
    if new:
        stated.modules_to_save = head_modules(policy.model, new)
        stated.task_type = task_type(policy.model)
    attached = BeginningAttached(policy, beginning, stated, new)
    named_trainable(policy, attached.trainable)
    return attached


def _config(model: PreTrainedModel, spec: BeginningSpec, base_name: str) -> PromptLearningConfig:
    """PEFT's configuration of the same beginning."""
    text = model.config.get_text_config()
    layers, groups, size = shape_of_keys(model)
    shape: dict[str, object] = {
        "base_model_name_or_path": base_name,
        "task_type": "CAUSAL_LM",
        "num_virtual_tokens": spec.num_virtual_tokens,
        "num_transformer_submodules": 1,
        "num_layers": layers,
    }
    if isinstance(spec, PrefixSpec):
        return PrefixTuningConfig(
            **shape,  # type: ignore[arg-type]
            token_dim=groups * size,
            num_attention_heads=groups,
            prefix_projection=spec.prefix_projection,
            encoder_hidden_size=spec.encoder_hidden_size or groups * size,
        )
    width = int(text.hidden_size)
    shape |= {"token_dim": width, "num_attention_heads": int(text.num_attention_heads)}
    if isinstance(spec, PTuningSpec):
        return PromptEncoderConfig(
            **shape,  # type: ignore[arg-type]
            encoder_reparameterization_type=spec.encoder_reparameterization_type.upper(),
            encoder_hidden_size=spec.encoder_hidden_size or width,
            encoder_num_layers=spec.encoder_num_layers or 2,
        )
    return PromptTuningConfig(
        **shape,  # type: ignore[arg-type]
        prompt_tuning_init=spec.prompt_tuning_init.upper(),
        prompt_tuning_init_text=spec.prompt_tuning_init_text,
        tokenizer_name_or_path=base_name if spec.prompt_tuning_init == "text" else None,
    )


def _beginning(model: PreTrainedModel, spec: BeginningSpec, config: PromptLearningConfig, encode: Encode) -> Beginning:
    """The beginning with its first values."""
    length = spec.num_virtual_tokens
    if isinstance(spec, PrefixSpec):
        encoder = PrefixEncoder(config)
        return LearnedKeys(encoder, length, int(config.num_layers or 0), int(config.num_attention_heads or 0))
    if isinstance(spec, PTuningSpec):
        return VirtualTokens(PromptEncoder(config), length)
    embedding = nn.Embedding(length, int(config.token_dim or 0))
    with torch.no_grad():
        embedding.weight.copy_(_first_embeddings(model, spec, encode))
    return VirtualTokens(embedding, length)


def _first_embeddings(model: PreTrainedModel, spec: PromptSpec, encode: Encode) -> Tensor:
    """First values of virtual tokens, [P, W]: drawn as widely spread as the model's own, or some of these.

    Errors: adapt.beginning_without_tokens.
    """
    length, words = spec.num_virtual_tokens, cast(nn.Embedding, model.get_input_embeddings())
    if spec.prompt_tuning_init == "random":
        spread = float(words.weight.float().std())
        return torch.randn(length, words.weight.shape[1]) * spread
    if spec.prompt_tuning_init == "sample_vocab":
        token_ids = torch.randint(words.weight.shape[0], (length,)).tolist()
    else:
        token_ids = list(encode(spec.prompt_tuning_init_text or ""))
        if not token_ids:
            raise TunesmithError("adapt.beginning_without_tokens")
    repeated = (token_ids * math.ceil(length / len(token_ids)))[:length]
    embeddings_PW: Tensor = words(torch.tensor(repeated, device=words.weight.device)).detach().float()
    return embeddings_PW
