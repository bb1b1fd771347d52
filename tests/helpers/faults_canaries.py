"""Files that leave a trace when anything unpickles, imports or runs them, in the disguises in which they come."""

from __future__ import annotations

import gzip
import io
import marshal
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


class Canary:
    """An object whose unpickling makes a file: a harmless stand-in for any command."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self._marker), "w"))


def pickled(marker: Path, protocol: int = 4) -> bytes:
    return pickle.dumps(Canary(marker), protocol=protocol)


def torch_zip(marker: Path) -> bytes:
    """What torch.save writes: a zip with a pickle in it."""
    stream = io.BytesIO()
    torch.save({"weight": torch.zeros(2), "canary": Canary(marker)}, stream)
    return stream.getvalue()


def torch_legacy(marker: Path) -> bytes:
    """What torch.save wrote before 1.6."""
    stream = io.BytesIO()
    torch.save({"canary": Canary(marker)}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def numpy_object(marker: Path) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Canary(marker)], dtype=object), allow_pickle=True)
    return stream.getvalue()


def numpy_archive(marker: Path) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, weight=np.array([Canary(marker)], dtype=object))
    return stream.getvalue()


def in_zip(marker: Path) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(marker))
    return stream.getvalue()


def in_tar(marker: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("pickle")
        entry.size = len(pickled(marker))
        archive.addfile(entry, io.BytesIO(pickled(marker)))
    return stream.getvalue()


def in_gzip(marker: Path) -> bytes:
    return gzip.compress(pickled(marker))


def oldest_pickle(marker: Path) -> bytes:
    return pickled(marker, protocol=0)


def newest_pickle(marker: Path) -> bytes:
    return pickled(marker, protocol=5)


def marshalled(marker: Path) -> bytes:
    return marshal.dumps(compile(f"open({str(marker)!r}, 'w')", "canary", "exec"))


def tagged_yaml(marker: Path) -> bytes:
    return f"weights: !!python/object/apply:builtins.open [{str(marker)!r}, w]\n".encode()


def python_code(marker: Path) -> bytes:
    return f"open({str(marker)!r}, 'w')\n\n\nclass Evil:\n    pass\n".encode()


Maker = Callable[[Path], bytes]

BESIDE_A_MODEL: dict[str, Maker] = {
    "pytorch_model.bin": torch_zip,
    "adapter_model.bin": torch_zip,
    "value_head.bin": torch_zip,
    "consolidated.00.pth": torch_legacy,
    "optimizer.pt": torch_legacy,
    "scheduler.pt": torch_zip,
    "rng_state.pth": pickled,
    "training_args.bin": torch_zip,
    "trainer_state.pkl": newest_pickle,
    ".hidden.mdl": pickled,
    ".metadata": pickled,
    "__0_0.distcp": pickled,
    "model.ckpt": torch_legacy,
    "model.joblib": in_gzip,
    "embeddings.npz": numpy_archive,
    "weights.npy": numpy_object,
    "archive.tar": in_tar,
    "archive.zip": in_zip,
    "cache/features.pkl": oldest_pickle,
    "hyperparams.yaml": tagged_yaml,
    "__pycache__/modeling_evil.cpython-311.pyc": marshalled,
    "modeling_evil.py": python_code,
}
"""Never opened: the model loads without them, and a report names them."""

IN_PLACE_OF: dict[str, Maker] = {
    "model.safetensors": torch_zip,
    "tokenizer.json": pickled,
    "config.json": newest_pickle,
    "tokenizer_config.json": oldest_pickle,
    "generation_config.json": pickled,
    "special_tokens_map.json": pickled,
    "added_tokens.json": pickled,
    "chat_template.jinja": pickled,
}
"""Files that a model needs, in content a pickle: refused by their names."""

AS_DATA: dict[str, Maker] = {
    "rows.pkl": pickled,
    "rows.npz": numpy_archive,
    "rows.npy": numpy_object,
    "rows.joblib": in_gzip,
    "rows.tar": in_tar,
    "rows.zip": in_zip,
    "rows.pt": torch_zip,
    "rows.yaml": tagged_yaml,
    "rows.jsonl": newest_pickle,
    "rows.csv": pickled,
    "rows.parquet": pickled,
    "rows.arrow": pickled,
}
"""Sources of rows: refused by their names, whatever the suffix promises."""

TAGS = (
    "!!python/object/apply:builtins.open [{marker!r}, w]",
    "!!python/object/new:builtins.open [{marker!r}, w]",
    "!!python/object:faults_canaries.Canary {{_marker: {marker!r}}}",
    "!!python/name:builtins.open",
    "!!python/module:os",
    "!!python/object/apply:os.system ['touch {marker}']",
    "!!python/tuple [1, 2]",
    "!!binary aGk=",
    "!canary {marker!r}",
)
"""Values of a recipe that ask YAML to make something of them."""
