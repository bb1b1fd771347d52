"""The merged model as a folder in the Hugging Face layout: what transformers, vLLM and every converter read."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tunesmith.core.files import read_json, write_json

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def stored_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The number format that holds most of the values."""
    sizes: dict[torch.dtype, int] = {}
    for tensor in tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.numel()
    return max(sizes, key=lambda dtype: sizes[dtype])


def write_safetensors(
    folder: Path, tensors: Mapping[str, Tensor], base: Path, tokenizer: Path, dtype: torch.dtype
) -> None:
    """Write weights, configuration, tokenizer and template.

    Args:
        tensors: merged weights by their names in the Hugging Face layout.
        base: folder whose config.json and generation_config.json describe them.
        tokenizer: folder whose tokenizer and template the model was trained with.
        dtype: number format on disk.
    """
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {**read_json(base / "config.json"), "dtype": str(dtype).removeprefix("torch.")}
    config.pop("torch_dtype", None)
    write_json(folder / "config.json", config)
    if (base / "generation_config.json").is_file():
        shutil.copyfile(base / "generation_config.json", folder / "generation_config.json")
    for name in _TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)
    # the class that every version of transformers knows, and the only one that takes tokenizer.json as it is
    settings = {**read_json(folder / "tokenizer_config.json"), "tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(folder / "tokenizer_config.json", settings)
