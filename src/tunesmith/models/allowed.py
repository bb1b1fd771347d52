"""What a model folder may say: architectures, keys of its JSON files, and bounds of their values.

Configurations made by others have fetched kernels, switched remote code on for a part of a model and pointed loaders
at other files, each time through a key that nobody had thought of. So the keys that mean something are listed here;
every other is dropped and named, and one that asks for code is refused, at whatever depth it stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import read_json

ARCHITECTURES = frozenset(
    "bert gemma gemma2 gemma3_text glm glm4 granite llama mistral mixtral olmo2 phi3 qwen2 qwen2_moe qwen3 qwen3_moe"
    " roberta smollm3 xlm-roberta".split()
)
"""Architectures that are loaded, by transformers' `model_type`; their code is part of transformers."""

_MB = 2**20
_LARGEST_FILE = {"config.json": _MB, "generation_config.json": _MB}
_LARGEST_TOKENIZER_FILE = 64 * _MB
_NAME = re.compile(r"[\w.+-]{1,100}")
_CODE_KEYS = frozenset({"auto_map", "custom_pipelines", "custom_generate", "kernel_config", "fusion_config"})
_MOST_LABELS = 100_000
_DTYPES = frozenset({"float32", "float16", "bfloat16", "float64"})

Check = Callable[[object], bool]


def _whole(largest: int) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= largest


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e31


def _token_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -1 <= value < 2**31


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 1000


def _dtype(value: object) -> bool:
    return isinstance(value, str) and value in _DTYPES


def _each(check: Check) -> Check:
    return lambda value: isinstance(value, list) and len(value) <= 100_000 and all(map(check, value))


def _one_or_more(check: Check) -> Check:
    return lambda value: check(value) or _each(check)(value)


def _labels(value: object) -> bool:
    """A table of numbers to names, or of names to numbers."""
    return isinstance(value, dict) and len(value) <= _MOST_LABELS and all(_label(each) for each in value.items())


def _label(pair: tuple[object, object]) -> bool:
    return any(_text(name) and _whole(_MOST_LABELS)(number) for name, number in (pair, _numbered(pair)))


def _numbered(pair: tuple[object, object]) -> tuple[object, object]:
    """A pair of a number, which is text where it is a key of JSON, and a name, the other way round."""
    number, name = pair
    return name, int(number) if isinstance(number, str) and number.isascii() and number.isdigit() else number


def _table(keys: Mapping[str, Check]) -> Check:
    def check(value: object) -> bool:
        return isinstance(value, dict) and all(key in keys and _holds(keys[key], each) for key, each in value.items())

    return check


def _any_table(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and len(value) <= 100_000 and all(map(check, value.values()))


def _holds(check: Check, value: object) -> bool:
    return value is None or check(value)


def _keys(words: str, check: Check) -> dict[str, Check]:
    return dict.fromkeys(words.split(), check)


_IDS = _one_or_more(_token_id)
_ROPE = {
    **_keys("rope_type type", _name),
    **_keys("short_factor long_factor", _each(_number)),
    "truncate": _flag,
    **_keys(
        "rope_theta factor attention_factor beta_fast beta_slow low_freq_factor high_freq_factor mscale mscale_all_dim"
        " original_max_position_embeddings partial_rotary_factor",
        _number,
    ),
}
_ROPES = _table({**_ROPE, "full_attention": _table(_ROPE), "sliding_attention": _table(_ROPE)})

CONFIG_KEYS: Mapping[str, Check] = {
    **_keys("model_type transformers_version hidden_act hidden_activation problem_type", _name),
    **_keys("id2label label2id", _labels),
    **_keys("architectures layer_types", _each(_name)),
    **_keys("dtype torch_dtype", _dtype),
    "vocab_size": _whole(2**22),
    "num_hidden_layers": _whole(1024),
    "num_labels": _whole(_MOST_LABELS),
    # a BERT that looks back only is no encoder
    **_keys("is_decoder add_cross_attention", lambda value: value is False),
    "type_vocab_size": _whole(1024),
    **_keys("hidden_size intermediate_size moe_intermediate_size shared_expert_intermediate_size", _whole(2**18)),
    **_keys("num_experts num_local_experts num_experts_per_tok decoder_sparse_step", _whole(2**14)),
    "mlp_only_layers": _each(_whole(1024)),
    **_keys("num_attention_heads num_key_value_heads head_dim", _whole(2**14)),
    **_keys(
        "max_position_embeddings original_max_position_embeddings sliding_window sliding_window_pattern"
        " max_window_layers no_rope_layer_interval pretraining_tp",
        _whole(2**31),
    ),
    "no_rope_layers": _each(_whole(1024)),
    **_keys("pad_token_id bos_token_id eos_token_id", _IDS),
    **_keys("rope_parameters rope_scaling", _ROPES),
    **_keys(
        "initializer_range rms_norm_eps rope_theta rope_local_base_freq attention_dropout resid_pdrop embd_pdrop"
        " query_pre_attn_scalar final_logit_softcapping attn_logit_softcapping partial_rotary_factor"
        " embedding_multiplier logits_scaling residual_multiplier attention_multiplier hidden_dropout_prob"
        " attention_probs_dropout_prob classifier_dropout layer_norm_eps router_jitter_noise router_aux_loss_coef",
        _number,
    ),
    **_keys(
        "use_cache tie_word_embeddings attention_bias mlp_bias use_sliding_window use_bidirectional_attention"
        " norm_topk_prob qkv_bias",
        _flag,
    ),
}
"""Keys of config.json that are used, each with what its value must be; null is always possible."""

GENERATION_KEYS: Mapping[str, Check] = {
    **_keys("pad_token_id bos_token_id eos_token_id", _IDS),
    **_keys("max_length max_new_tokens min_length top_k no_repeat_ngram_size", _whole(2**31)),
    **_keys("temperature top_p min_p typical_p repetition_penalty", _number),
    "do_sample": _flag,
    "transformers_version": _name,
}
"""Keys of generation_config.json that are used."""

_ADDED_TOKEN = _table(
    {**_keys("content __type", _text), **_keys("lstrip rstrip normalized single_word special", _flag)}
)


def _token(value: object) -> bool:
    return _text(value) or _ADDED_TOKEN(value)


def _template(value: object) -> bool:
    return isinstance(value, str)


_TOKENS = {
    **_keys("bos_token eos_token pad_token unk_token sep_token cls_token mask_token", _token),
    **_keys(
        "additional_special_tokens extra_special_tokens",
        lambda value: _each(_token)(value) or _any_table(_token)(value),
    ),
}

TOKENIZER_KEYS: Mapping[str, Check] = {
    **_TOKENS,
    "added_tokens_decoder": _any_table(_ADDED_TOKEN),
    "chat_template": lambda value: _template(value) or _each(_table(_keys("name template", _template)))(value),
    "model_max_length": _number,
    **_keys("tokenizer_class padding_side truncation_side", _name),
    "model_input_names": _each(_name),
    **_keys(
        "add_bos_token add_eos_token add_prefix_space clean_up_tokenization_spaces split_special_tokens legacy", _flag
    ),
}
"""Keys of tokenizer_config.json that are used."""

FILES: Mapping[str, Mapping[str, Check]] = {
    "config.json": CONFIG_KEYS,
    "generation_config.json": GENERATION_KEYS,
    "tokenizer_config.json": TOKENIZER_KEYS,
    "special_tokens_map.json": _TOKENS,
}
"""The JSON files of a model folder that are read by key."""


@dataclass(frozen=True)
class Read:
    """A JSON file of a model folder: what is used of it, and the names of the keys that are not."""

    values: Mapping[str, object]
    dropped: tuple[str, ...]


def read_allowed(folder: Path, name: str) -> Read:
    """The allowed part of one of `FILES`; nothing at all where the file is missing.

    Errors: models.broken_config, models.remote_code, models.architecture_refused.
    """
    path = folder / name
    if not path.is_file():
        return Read({}, ())
    stated = read_bounded(path, _LARGEST_FILE.get(name, _LARGEST_TOKENIZER_FILE))
    _refuse_code(path, stated)
    allowed = FILES[name]
    values: dict[str, object] = {}
    for key, value in stated.items():
        if key in allowed:
            if not _holds(allowed[key], value):
                reason = f"{key} = {repr(value)[:80]}"
                raise TunesmithError("models.broken_config", path=str(path), reason=reason)
            values[key] = value
    if name == "config.json":
        _check_architecture(path, values)
    return Read(values, tuple(sorted(set(stated) - set(values))))


def read_bounded(path: Path, largest: int = _MB) -> dict[str, object]:
    """A JSON object of others, of at most so many bytes. Errors: models.broken_config."""
    try:
        size = path.stat().st_size
        if size > largest:
            raise TunesmithError("models.broken_config", path=str(path), reason=f"{size} bytes")
        values = read_json(path)
        json.dumps(values, ensure_ascii=False).encode()  # half a character has no place in any file or message
    except TunesmithError as error:
        if error.code == "models.broken_config":
            raise
        reason = str(error.facts.get("reason", error))
        raise TunesmithError("models.broken_config", path=str(path), reason=reason) from error
    except (OSError, RecursionError, UnicodeEncodeError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise TunesmithError("models.broken_config", path=str(path), reason=reason) from error
    return values


def _refuse_code(path: Path, stated: object) -> None:
    """Refuse a key that names code or asks for trust, and a kernel or an attention that is fetched from a hub."""
    waiting = [(stated, "")]  # each value with the key above it that chooses a kernel, wherever that stands
    while waiting:
        value, chooser = waiting.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                _refuse_key(path, key, inner)
                chooses = "implementation" in key.lower() or "kernel" in key.lower()
                waiting.append((inner, key if chooses else chooser))
        elif isinstance(value, list):
            waiting.extend((inner, chooser) for inner in value)
        elif chooser and isinstance(value, str) and "/" in value:
            raise TunesmithError("models.remote_code", path=str(path), key=chooser[:100])


def _refuse_key(path: Path, key: str, value: object) -> None:
    lowered = key.lower()
    trust = ("trust" in lowered or "remote_code" in lowered) and value not in (None, False)
    if key in _CODE_KEYS or trust:
        raise TunesmithError("models.remote_code", path=str(path), key=key[:100])
    if lowered in ("quantization_config", "compression_config") and value is not None:
        raise TunesmithError("models.broken_config", path=str(path), reason=key)


def _check_architecture(path: Path, values: Mapping[str, object]) -> None:
    architecture = values.get("model_type")
    if not isinstance(architecture, str):
        raise TunesmithError("models.broken_config", path=str(path), reason="model_type")
    if architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise TunesmithError("models.architecture_refused", path=str(path), architecture=architecture, known=known)
