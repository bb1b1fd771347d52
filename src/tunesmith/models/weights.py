"""Weights of a model folder: which files they are, and the one way in which tensors come in."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tunesmith.core.errors import TunesmithError
from tunesmith.models.safetensors_header import Stored, read_header

WEIGHTS = "model.safetensors"
_SHARD = re.compile(r"model-\d{5}-of-(\d{5})\.safetensors")


def weight_files(folder: Path) -> list[Path]:
    """The one weight file of a model folder, or its shards in order; empty when there is neither.

    Other safetensors files beside them (another vendor's layout, an adapter) are no weights of the model.
    Errors: models.not_a_model_folder when shards are missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    shards = sorted(path for path in folder.glob("model-*.safetensors") if _SHARD.fullmatch(path.name))
    for shard in shards:
        named = _SHARD.fullmatch(shard.name)
        if named and int(named[1]) != len(shards):
            missing = f"model-*-of-{named[1]}.safetensors"
            raise TunesmithError("models.not_a_model_folder", path=str(folder), missing=missing)
    return shards


def read_headers(folder: Path) -> dict[str, tuple[Path, Stored]]:
    """The tensors of a model folder by name, each with its file. Errors: those of `read_header`."""
    found: dict[str, tuple[Path, Stored]] = {}
    for path in weight_files(folder):
        for name, stored in read_header(path).items():
            if name in found:
                raise TunesmithError("models.broken_weights", path=str(path), reason=f"{name[:80]} is in two files")
            found[name] = (path, stored)
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one safetensors file, its header checked first. Errors: models.broken_weights."""
    read_header(path)
    try:
        with safe_open(str(path), framework="pt") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise TunesmithError("models.broken_weights", path=str(path), reason=str(error)) from error


def read_tensor(folder: Path, name: str) -> Tensor:
    """One tensor of a model folder that holds it. Errors: those of `read_headers`."""
    path, _ = read_headers(folder)[name]
    with safe_open(str(path), framework="pt") as stream:
        found: Tensor = stream.get_tensor(name)
    return found


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder, shards joined. Errors: models.broken_weights."""
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        tensors.update(read_tensors(path))
    return tensors
