"""Whether an artefact holds its numbers in the format that it states."""

from __future__ import annotations

from pathlib import Path

import gguf

from tunesmith.core.files import read_json
from tunesmith.models.gguf_layout import stays_float32
from tunesmith.models.weights import read_headers

_STORED_AS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_MATRICES = {"gguf-f16": gguf.GGMLQuantizationType.F16, "gguf-q8_0": gguf.GGMLQuantizationType.Q8_0}
_BLOCK = 32
"""Values that Q8_0 keeps together; a matrix whose rows are no multiple of it stays F16."""


def stated_dtype(folder: Path) -> str:
    """The number format that config.json states, such as "bfloat16"."""
    return str(read_json(folder / "config.json").get("dtype"))


def other_dtypes(folder: Path) -> int:
    """Tensors of a safetensors folder whose number format is not the one that config.json states."""
    stated = _STORED_AS.get(stated_dtype(folder))
    return sum(stored.dtype != stated for _, stored in read_headers(folder).values())


def other_types(path: Path, kind: str) -> int:
    """Tensors of a GGUF file that are not of the artefact's type; vectors and routers are float32 in every kind."""
    wanted = _MATRICES[kind]
    count = 0
    for tensor in gguf.GGUFReader(path).tensors:
        shape = [int(each) for each in tensor.shape]
        if stays_float32(tensor.name, len(shape)):
            count += tensor.tensor_type != gguf.GGMLQuantizationType.F32
        elif shape[0] % _BLOCK and kind == "gguf-q8_0":
            count += tensor.tensor_type != gguf.GGMLQuantizationType.F16
        else:
            count += tensor.tensor_type != wanted
    return count
