"""GGUF file -> model folder in the Hugging Face layout, once, into the cache.

The weights are written as float32: a 4-bit value is scale * number + offset with half-precision scale and offset,
which float32 holds exactly or to the last bit, and bfloat16 would round a second time. The origin stays lossy, and
`origin.json` says so to every later report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import gguf
from safetensors.numpy import save_file

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import is_whole, new_folder, remove_rubbish, sha256_file, write_json
from tunesmith.models.allowed import read_bounded
from tunesmith.models.byte_bpe import build_tokenizer, write_tokenizer
from tunesmith.models.catalog import cache_folder
from tunesmith.models.gguf_header import check_header
from tunesmith.models.gguf_layout import (
    ARCHITECTURES,
    Architecture,
    Array,
    from_gguf_order,
    permuted_heads,
    tensor_names,
)
from tunesmith.models.texts import ORIGIN

IMPORTER_VERSION = 1
"""Part of the folder's name: a converter that writes other bytes never meets the folders of this one."""

_CONTROL, _USER_DEFINED = 3, 4  # llama.cpp's token types
_LOSSLESS = frozenset({"F32", "F16", "BF16"})


class _Header:
    """Typed access to the key-value part of a GGUF file."""

    def __init__(self, path: Path, reader: gguf.GGUFReader) -> None:
        self._path = path
        self._fields = reader.fields

    def get(self, key: str) -> object:
        field = self._fields.get(key)
        return None if field is None else field.contents()

    def need(self, key: str) -> object:
        value = self.get(key)
        if value is None:
            raise TunesmithError("models.broken_gguf", path=str(self._path), reason=f"no {key}")
        return value

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.get(key) if default is not None else self.need(key)
        return default if value is None and default is not None else int(str(value))

    def number(self, key: str, default: float) -> float:
        value = self.get(key)
        return default if value is None else float(str(value))

    def text(self, key: str, default: str = "") -> str:
        value = self.get(key)
        return default if value is None else str(value)

    def texts(self, key: str) -> list[str]:
        value = self.need(key)
        return [str(each) for each in value] if isinstance(value, list) else []


def import_gguf(path: Path, *, name: str = "", licence: str = "") -> Path:
    """Convert a GGUF file and return the folder in the cache; a whole earlier conversion is used as it is.

    Args:
        path: the file.
        name: what the origin is called in reports; the file's own name when empty.
        licence: used when the file states none.

    Errors: models.broken_gguf, models.unknown_architecture, models.unknown_pre_tokenizer, models.not_byte_bpe,
        models.missing_tensor, and those of writing.
    """
    digest = sha256_file(path)
    folder = cache_folder() / "models" / f"{digest}-{IMPORTER_VERSION}"
    if is_whole(folder):  # a damaged one is made again
        return folder
    remove_rubbish(folder.parent)
    reader = _open(path)
    try:
        _convert(path, reader, folder, digest, name, licence)
    except (ArithmeticError, LookupError, NotImplementedError, TypeError, ValueError) as error:
        raise _broken(path, error) from error  # a setting that is a text where a number belongs, heads that do not fit
    return folder


def _convert(path: Path, reader: gguf.GGUFReader, folder: Path, digest: str, name: str, licence: str) -> None:
    header = _Header(path, reader)
    architecture = _architecture(header)
    config = _config(header, architecture)
    tied = not any(tensor.name == "output.weight" for tensor in reader.tensors)
    config["tie_word_embeddings"] = tied
    with new_folder(folder) as aside:
        save_file(_weights(path, reader, architecture, config, tied), aside / "model.safetensors", {"format": "pt"})
        _write_tokenizer(aside, path, header, architecture)
        write_json(aside / "config.json", config)
        ends = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config}
        write_json(aside / "generation_config.json", ends)
        write_json(aside / ORIGIN, _origin(path, digest, header, reader, name, licence))


def read_origin(folder: Path) -> dict[str, object]:
    """What `origin.json` states about a model folder; empty for a folder that was not converted.

    Errors: models.broken_config.
    """
    return read_bounded(folder / ORIGIN) if (folder / ORIGIN).is_file() else {}


def _open(path: Path) -> gguf.GGUFReader:
    check_header(path)
    try:
        return gguf.GGUFReader(path)
    except Exception as error:  # the reader raises whatever a damaged header leads it to
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> TunesmithError:
    reason = (str(error) or type(error).__name__)[:300]
    return TunesmithError("models.broken_gguf", path=str(path), reason=reason)


def _architecture(header: _Header) -> Architecture:
    name = str(header.need("general.architecture"))
    if name not in ARCHITECTURES:
        raise TunesmithError("models.unknown_architecture", architecture=name, known=", ".join(ARCHITECTURES))
    for refused in ("rope.scaling.type", "expert_count"):  # stretched positions and experts have no mapping here
        stated = header.text(f"{name}.{refused}", "none")
        if stated not in ("none", "0"):
            described = f"{name} ({refused} = {stated})"
            raise TunesmithError("models.unknown_architecture", architecture=described, known=", ".join(ARCHITECTURES))
    return ARCHITECTURES[name]


def _config(header: _Header, architecture: Architecture) -> dict[str, object]:
    key = architecture.name
    heads = header.whole(f"{key}.attention.head_count")
    hidden = header.whole(f"{key}.embedding_length")
    base = header.number(f"{key}.rope.freq_base", 10_000.0)
    config: dict[str, object] = {
        "architectures": [architecture.model_class],
        "model_type": architecture.model_type,
        "dtype": "float32",
        "vocab_size": len(header.texts("tokenizer.ggml.tokens")),
        "hidden_size": hidden,
        "intermediate_size": header.whole(f"{key}.feed_forward_length"),
        "num_hidden_layers": header.whole(f"{key}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": header.whole(f"{key}.attention.head_count_kv", heads),
        "head_dim": header.whole(f"{key}.attention.key_length", hidden // heads),
        "max_position_embeddings": header.whole(f"{key}.context_length"),
        # GGUF stores float32; the shortest decimal that is this float32 is what the authors wrote
        "rms_norm_eps": float(f"{header.number(f'{key}.attention.layer_norm_rms_epsilon', 1e-5):.7g}"),
        "rope_theta": base,  # what readers before transformers 5 look at
        "rope_parameters": {"rope_type": "default", "rope_theta": base},
        "hidden_act": "silu",
    }
    if architecture.model_type == "llama":
        config["attention_bias"] = config["mlp_bias"] = False
    for place in ("bos", "eos"):
        if header.get(f"tokenizer.ggml.{place}_token_id") is not None:
            config[f"{place}_token_id"] = header.whole(f"tokenizer.ggml.{place}_token_id")
    if header.get("tokenizer.ggml.padding_token_id") is not None:
        config["pad_token_id"] = header.whole("tokenizer.ggml.padding_token_id")
    return config


def _weights(
    path: Path, reader: gguf.GGUFReader, architecture: Architecture, config: Mapping[str, object], tied: bool
) -> dict[str, Array]:
    stored = {tensor.name: tensor for tensor in reader.tensors}
    heads, key_value_heads, layers = (
        int(str(config[key])) for key in ("num_attention_heads", "num_key_value_heads", "num_hidden_layers")
    )
    weights: dict[str, Array] = {}
    for gguf_name, name in tensor_names(architecture, layers, tied=tied):
        tensor = stored.pop(gguf_name, None)
        if tensor is None:
            raise TunesmithError("models.missing_tensor", path=str(path), tensor=gguf_name)
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype("float32", copy=False)
        turned = permuted_heads(gguf_name, architecture, heads, key_value_heads)
        weights[name] = from_gguf_order(values, turned) if turned else values
    if stored:
        described = f"{architecture.name} ({', '.join(sorted(stored)[:3])})"
        raise TunesmithError("models.unknown_architecture", architecture=described, known=", ".join(ARCHITECTURES))
    return weights


def _write_tokenizer(folder: Path, path: Path, header: _Header, architecture: Architecture) -> None:
    kind = header.text("tokenizer.ggml.model")
    if kind != "gpt2":  # the name that GGUF has for byte-level BPE
        raise TunesmithError("models.not_byte_bpe", kind=kind or "none")
    tokens = header.texts("tokenizer.ggml.tokens")
    types = [int(each) for each in header.texts("tokenizer.ggml.token_type")]
    if len(types) != len(tokens):
        raise TunesmithError("models.broken_gguf", path=str(path), reason="token types do not match the tokens")
    split = [merge.split(" ", 1) for merge in header.texts("tokenizer.ggml.merges")]
    if any(len(pair) != 2 for pair in split):
        raise TunesmithError("models.broken_gguf", path=str(path), reason="a merge is not a pair")
    if len(set(tokens)) < len(tokens):
        raise TunesmithError("models.broken_gguf", path=str(path), reason="a token stands twice")
    try:
        tokenizer = build_tokenizer(
            tokens,
            [(pair[0], pair[1]) for pair in split],
            [token for token, kind_ in zip(tokens, types, strict=True) if kind_ in (_CONTROL, _USER_DEFINED)],
            header.text("tokenizer.ggml.pre", architecture.default_pre) or "none",
        )
    except TunesmithError:
        raise
    except Exception as error:  # tokenizers raises plain Exception for merges of tokens that do not exist
        raise _broken(path, error) from error

    def token(place: str) -> str | None:
        index = header.whole(f"tokenizer.ggml.{place}_token_id", -1)
        return tokens[index] if 0 <= index < len(tokens) else None

    write_tokenizer(
        folder,
        tokenizer,
        header.text("tokenizer.chat_template"),
        bos=token("bos"),
        eos=token("eos"),
        pad=token("padding"),
        unk=token("unknown"),
        context=header.whole(f"{architecture.name}.context_length"),
    )


def _origin(
    path: Path, digest: str, header: _Header, reader: gguf.GGUFReader, name: str, licence: str
) -> dict[str, object]:
    kinds = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    main = max(kinds, key=lambda kind: sum(int(t.n_elements) for t in reader.tensors if t.tensor_type.name == kind))
    return {
        "name": name or path.stem,
        "file": path.name,
        "sha256": digest,
        "licence": licence or header.text("general.license"),
        "format": "gguf",
        "quantization": main,
        "tensors": dict(sorted(kinds.items())),
        "lossy": main not in _LOSSLESS,
        "importer": IMPORTER_VERSION,
    }
