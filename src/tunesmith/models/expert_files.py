"""Experts in files and in memory: files of the ecosystem hold each expert's matrices by themselves, transformers stacks
those of a layer in memory.

    in memory (every architecture)               in files
    mlp.experts.gate_up_proj [E, 2 I, W]         mlp.experts.<e>.gate_proj.weight and up_proj.weight [I, W]
    mlp.experts.down_proj    [E, W, I]           mlp.experts.<e>.down_proj.weight [W, I]
    mlp.gate.weight          [E, W]              mlp.gate.weight

Mixtral's files say block_sparse_moe for mlp, and w1, w3, w2 for gate, up and down.

Shape letters: E experts, W width, I inner width of an expert.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Words:
    """How an architecture's files call the parts."""

    block: str = "mlp"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


_WORDS = {
    "mixtral": _Words("block_sparse_moe", "w1", "w3", "w2"),
    "qwen2_moe": _Words(),
    "qwen3_moe": _Words(),
}
_STACKED = re.compile(r"(?P<layer>.*layers\.\d+)\.mlp\.(?P<part>experts\.gate_up_proj|experts\.down_proj|gate\.weight)")


def to_files(architecture: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names of a model in memory, by those of its files; nothing changes where there are no experts."""
    words = _WORDS.get(architecture)
    if words is None:
        return dict(tensors)
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _STACKED.fullmatch(name)
        found.update(_apart(words, match["layer"], match["part"], tensor) if match else {name: tensor})
    return found


def _apart(words: _Words, layer: str, part: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if part == "gate.weight":
        yield f"{layer}.{words.block}.gate.weight", tensor
        return
    for expert, matrix in enumerate(tensor):
        yield from _expert(words, layer, expert, part.removeprefix("experts."), matrix)


def _expert(words: _Words, layer: str, expert: int, part: str, matrix: Tensor) -> Iterator[tuple[str, Tensor]]:
    """One expert's matrix by its names in files: of `gate_up_proj` the halves."""
    place = f"{layer}.{words.block}.experts.{expert}"
    if part == "down_proj":
        yield f"{place}.{words.down}.weight", matrix
    else:
        gate_IW, up_IW = matrix.chunk(2)
        yield f"{place}.{words.gate}.weight", gate_IW
        yield f"{place}.{words.up}.weight", up_IW


def expert_names(architecture: str, layer: int, expert: int) -> tuple[str, str, str]:
    """Names in files of one expert's gate, up and down."""
    words = _WORDS[architecture]
    place = f"model.layers.{layer}.{words.block}.experts.{expert}"
    return tuple(f"{place}.{word}.weight" for word in (words.gate, words.up, words.down))  # type: ignore[return-value]


def router_name(architecture: str, layer: int) -> str:
    """Name in files of a layer's router."""
    return f"model.layers.{layer}.{_WORDS[architecture].block}.gate.weight"


def to_model(architecture: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back: tensors by the names of files, stacked under those of a model in memory."""
    words = _WORDS.get(architecture)
    if words is None:
        return dict(tensors)
    one = re.compile(
        rf"(?P<layer>.*layers\.\d+)\.{words.block}\."
        rf"(?:experts\.(?P<expert>\d+)\.(?P<part>{words.gate}|{words.up}|{words.down})|(?P<router>gate))\.weight"
    )
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, dict[int, Tensor]]] = {}
    for name, tensor in tensors.items():
        match = one.fullmatch(name)
        if match is None:
            found[name] = tensor
        elif match["router"]:
            found[f"{match['layer']}.mlp.gate.weight"] = tensor
        else:
            parts.setdefault(match["layer"], {}).setdefault(match["part"], {})[int(match["expert"])] = tensor
    for layer, each in parts.items():
        if words.gate in each and words.up in each:
            both = [torch.cat([each[words.gate][e], each[words.up][e]]) for e in sorted(each[words.gate])]
            found[f"{layer}.mlp.experts.gate_up_proj"] = torch.stack(both)
        if words.down in each:
            downs = [each[words.down][e] for e in sorted(each[words.down])]
            found[f"{layer}.mlp.experts.down_proj"] = torch.stack(downs)
    return found
