"""The merged model as a folder in the Hugging Face layout: what transformers, vLLM and every converter read."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tunesmith.core.files import write_json
from tunesmith.models.allowed import read_allowed
from tunesmith.models.heads import Head, class_name
from tunesmith.models.texts import WHOLE_FILES
from tunesmith.models.weights import read_headers

_FORMATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def stored_dtype(folder: Path) -> torch.dtype:
    """The number format that holds most of a model folder's values; float32 where that is none for training."""
    sizes: Counter[str] = Counter()
    for _, stored in read_headers(folder).values():
        sizes[stored.dtype] += prod(stored.shape)
    return _FORMATS.get(max(sizes, key=lambda name: sizes[name]), torch.float32)


def dtype_name(dtype: torch.dtype) -> str:
    """The name that config.json has for a number format, such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def write_safetensors(
    folder: Path,
    tensors: Mapping[str, Tensor],
    base: Path,
    tokenizer: Path,
    dtype: torch.dtype,
    head: Head | None = None,
) -> None:
    """Write weights, configuration, tokenizer and template.

    Args:
        tensors: merged weights by their names in the Hugging Face layout.
        base: folder whose config.json and generation_config.json describe them.
        tokenizer: folder whose tokenizer and template the model was trained with.
        dtype: number format on disk.
        head: the task head among the tensors.
    """
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # only what was used here is handed on: no key that another loader would obey
    config = {**read_allowed(base, "config.json").values, "dtype": dtype_name(dtype)}
    config.pop("torch_dtype", None)
    if head is not None:
        config |= {**head.config(), "architectures": [class_name(str(config["model_type"]), head)]}
    write_json(folder / "config.json", config)
    for source, name in ((base, "generation_config.json"), (tokenizer, "special_tokens_map.json")):
        if (source / name).is_file():
            write_json(folder / name, read_allowed(source, name).values)
    for name in WHOLE_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)
    # the class that every version of transformers knows, and the only one that takes tokenizer.json as it is
    settings = {**read_allowed(tokenizer, "tokenizer_config.json").values, "tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(folder / "tokenizer_config.json", settings)
