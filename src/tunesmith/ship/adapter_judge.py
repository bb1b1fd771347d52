"""A published adapter, put on its base by other code than ours: PEFT where it is PEFT's form, else the few lines that
its model card prints."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tunesmith.adapt.files import (
    BOTTLENECK_CONFIG,
    BOTTLENECK_WEIGHTS,
    EXPERTS_WEIGHTS,
    LORA_EXPERTS_CONFIG,
    LORA_EXPERTS_WEIGHTS,
    SUBSET_WEIGHTS,
)
from tunesmith.adapt.saved import kind_of
from tunesmith.core.files import read_json
from tunesmith.models.load import BaseFolder, load_model
from tunesmith.models.weights import read_tensors

_IN_A_BLOCK = re.compile(r".*\.layers?\.(?P<block>\d+)\.(?P<part>.+)")
_AFTER = {"attention": ("self_attn.o_proj", "attention.output.dense"), "mlp": ("mlp", "output.dense")}
"""What gives the outputs that bottlenecks read, in decoders and in encoders."""

Judge = Callable[[PreTrainedModel, Path], nn.Module]


def judged(base: BaseFolder, folder: Path) -> nn.Module:
    """The base in float32 with the adapter of a folder that was written here. Errors: those of `load_model`."""
    return put_on_by_others(load_model(base.path, dtype=torch.float32).model, folder)


def put_on_by_others(model: PreTrainedModel, folder: Path) -> nn.Module:
    """A model with the adapter of a folder, by other code than ours."""
    return _JUDGES.get(kind_of(folder).name, _by_peft)(model, folder).eval()


def judge_name(folder: Path) -> str:
    """Who reads the folder, for the report."""
    return "plain torch" if kind_of(folder).name in _JUDGES else "PEFT"


def _by_peft(model: PreTrainedModel, folder: Path) -> nn.Module:
    # PEFT reads a property of the model that transformers has renamed; the notice is for PEFT's authors.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(model, str(folder))


def _by_copying(model: PreTrainedModel, folder: Path) -> nn.Module:
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in read_tensors(folder / SUBSET_WEIGHTS).items():
            own[name].copy_(tensor)
    return model


def _by_hooks(model: PreTrainedModel, folder: Path) -> nn.Module:
    settings, tensors = read_json(folder / BOTTLENECK_CONFIG), read_tensors(folder / BOTTLENECK_WEIGHTS)
    bend, scale, places = getattr(functional, str(settings["non_linearity"])), settings["scale"], settings["places"]

    def adds(module: nn.Module, name: str) -> None:
        down, b, up, c = (tensors[f"{name}.{part}"] for part in ("down.weight", "down.bias", "up.weight", "up.bias"))

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            source = inputs[0] if places == "parallel" else output
            added: Tensor = output + scale * (bend(source @ down.T + b) @ up.T + c)
            return added

        module.register_forward_hook(hook)

    for path, module in list(model.named_modules()):
        found = _IN_A_BLOCK.fullmatch(path)
        if found and found["part"] in _AFTER["mlp"]:
            adds(module, f"layers.{found['block']}.mlp")
        if found and found["part"] in _AFTER["attention"] and places == "houlsby":
            adds(module, f"layers.{found['block']}.attention")
    _copy_head(model, tensors)
    return model


def _copy_head(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> None:
    """A task head comes with the change, under the model's own names."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name in tensors.keys() & own.keys():
            own[name].copy_(tensors[name])


def _by_slices(model: PreTrainedModel, folder: Path) -> nn.Module:
    blocks, tensors = model.base_model.get_submodule("layers"), read_tensors(folder / EXPERTS_WEIGHTS)
    _copy_head(model, tensors)
    with torch.no_grad():
        for name, tensor in tensors.items():
            if not name.startswith("layers."):
                continue
            _, block, *rest = name.split(".")
            mlp = blocks.get_submodule(f"{block}.mlp")
            if rest == ["router"]:
                mlp.get_parameter("gate.weight").copy_(tensor)
            else:
                mlp.get_parameter(f"experts.{rest[2]}_proj")[int(rest[1])].copy_(tensor)
    return model


def _by_mixing(model: PreTrainedModel, folder: Path) -> nn.Module:
    settings, tensors = read_json(folder / LORA_EXPERTS_CONFIG), read_tensors(folder / LORA_EXPERTS_WEIGHTS)
    numbers, top_k = list(settings["experts"]), int(str(settings["top_k"]))  # type: ignore[call-overload]
    scale = float(str(settings["lora_alpha"])) / int(str(settings["rank"]))

    def mixes(module: nn.Module, block: str) -> None:
        def low_rank(shares: Tensor, x: Tensor, layer: str) -> Tensor:
            added = [
                shares[..., place, None] * (x @ tensors[f"{expert}.A"].T @ tensors[f"{expert}.B"].T)
                for place, expert in enumerate(f"{block}.experts.{number}.{layer}" for number in numbers)
            ]
            return scale * torch.stack(added).sum(0)

        def hook(mlp: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = inputs[0]
            logits = x @ torch.cat([tensors[f"{block}.experts.{number}.router.weight"] for number in numbers]).T
            best = logits.topk(min(top_k, len(numbers)), dim=-1)
            shares = torch.zeros_like(logits).scatter(-1, best.indices, best.values.softmax(-1))
            gate = mlp.get_submodule("gate_proj")(x) + low_rank(shares, x, "gate_proj")
            inner = mlp.get_submodule("act_fn")(gate) * (
                mlp.get_submodule("up_proj")(x) + low_rank(shares, x, "up_proj")
            )
            mixed: Tensor = mlp.get_submodule("down_proj")(inner) + low_rank(shares, inner, "down_proj")
            return mixed

        module.register_forward_hook(hook)

    _copy_head(model, tensors)
    for number, each in model.base_model.get_submodule("layers").named_children():
        mixes(each.get_submodule("mlp"), f"layers.{number}")
    return model


_JUDGES: Mapping[str, Judge] = {
    "subset": _by_copying,
    "bottleneck": _by_hooks,
    "experts": _by_slices,
    "lora-experts": _by_mixing,
}
"""Kinds that PEFT does not know."""
