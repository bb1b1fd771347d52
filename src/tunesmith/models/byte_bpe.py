"""Byte-level BPE tokenizers: llama.cpp's names of pre-tokenizers, and the `tokenizers` pieces that do the same.

The split that happens before the merges decides the ids, and GGUF stores only its name. The table below is the one
place where a name and a split meet; it is read in both directions (import of a GGUF file, export to one). A name or
a split that is not in it is refused, because a near miss changes ids without any error.
Source of the expressions: `llm_tokenizer_bpe` in llama.cpp's `llama-vocab.cpp` and the tokenizers that the
models' authors published.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import write_atomic, write_json

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _bytes(*, use_regex: bool) -> dict[str, object]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(expression: str) -> dict[str, object]:
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _bytes(use_regex=False)]}


PRE_TOKENIZERS: Mapping[str, dict[str, object]] = {
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, _bytes(use_regex=True)],
    },
    "gpt-2": _bytes(use_regex=True),
    "qwen2": _split(_QWEN2),
    "llama-bpe": _split(_LLAMA3),
}
"""Name in `tokenizer.ggml.pre` -> the `pre_tokenizer` part of a tokenizer.json."""


def pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    """The split that llama.cpp knows under a name. Errors: models.unknown_pre_tokenizer."""
    if name not in PRE_TOKENIZERS:
        raise TunesmithError("models.unknown_pre_tokenizer", name=name, known=", ".join(PRE_TOKENIZERS))
    carrier = json.loads(Tokenizer(models.BPE()).to_str())
    carrier["pre_tokenizer"] = PRE_TOKENIZERS[name]
    part: pre_tokenizers.PreTokenizer = Tokenizer.from_str(json.dumps(carrier)).pre_tokenizer
    return part


def pre_tokenizer_name(tokenizer: Tokenizer) -> str:
    """llama.cpp's name of a tokenizer's split. Errors: models.unknown_pre_tokenizer."""
    stated = _comparable(json.loads(tokenizer.to_str()).get("pre_tokenizer"))
    for name, known in PRE_TOKENIZERS.items():
        if _comparable(known) == stated:
            return name
    raise TunesmithError("models.unknown_pre_tokenizer", name=json.dumps(stated)[:200], known=", ".join(PRE_TOKENIZERS))


def _comparable(part: object) -> object:
    """The part without `trim_offsets`, which changes positions in the text but never ids."""
    if isinstance(part, dict):
        return {key: _comparable(value) for key, value in part.items() if key != "trim_offsets"}
    if isinstance(part, list):
        return [_comparable(value) for value in part]
    return part


def build_tokenizer(
    tokens: Sequence[str], merges: Sequence[tuple[str, str]], control: Sequence[str], pre: str
) -> Tokenizer:
    """A byte-level BPE tokenizer.

    Args:
        tokens: every token; its place is its id.
        merges: pairs, most wanted first.
        control: the tokens that mark structure (`<|im_end|>` ...): found in the text before anything else.
        pre: llama.cpp's name of the split.

    Errors: models.unknown_pre_tokenizer.
    """
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), fuse_unk=False, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return tokenizer


def merges_of(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """The merges of a BPE tokenizer, most wanted first. Errors: models.not_byte_bpe."""
    model = json.loads(tokenizer.to_str())["model"]
    if model.get("type") != "BPE":
        raise TunesmithError("models.not_byte_bpe", kind=str(model.get("type")))
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    return [(left, right) for left, right in pairs]


def write_tokenizer(
    folder: Path,
    tokenizer: Tokenizer,
    template: str,
    *,
    bos: str | None,
    eos: str | None,
    context: int,
    pad: str | None = None,
    unk: str | None = None,
) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja as the Hugging Face layout has them.

    `bos`, `eos`, `pad`, `unk` are tokens as text, or None; padding falls back to the end token. No token is put
    before or after a text by itself: the template says everything.
    """
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": pad or eos,
        "unk_token": unk,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "add_eos_token": False,
    }
    write_json(folder / "tokenizer_config.json", {key: value for key, value in config.items() if value is not None})
    if template:
        write_atomic(folder / "chat_template.jinja", template)
