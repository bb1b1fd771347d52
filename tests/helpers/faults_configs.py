"""Configurations that have led loaders astray, and what must become of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer_config.json"
REMOTE, BROKEN, REFUSED = "models.remote_code", "models.broken_config", "models.architecture_refused"
DROPPED = ""
"""Not refused: the key is dropped and named, and the model loads as if it were not there."""


@dataclass(frozen=True)
class Hostile:
    """Keys that are put into a file of a model folder, and the code that answers them."""

    values: Mapping[str, object]
    answer: str
    file: str = CONFIG
    files: Mapping[str, str] = field(default_factory=dict)


def _deep(levels: int) -> object:
    value: object = {"auto_map": {}}
    for _ in range(levels):
        value = {"inner": value}
    return value


HOSTILE: dict[str, Hostile] = {
    "auto_map": Hostile({"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}, REMOTE),
    "auto_map of a repository": Hostile({"auto_map": {"AutoConfig": "evil/repo--modeling_evil.Evil"}}, REMOTE),
    "auto_map in a part": Hostile({"text_config": {"auto_map": {"AutoModel": "modeling_evil.Evil"}}}, REMOTE),
    "auto_map in a list": Hostile({"parts": [{"auto_map": {}}]}, REMOTE),
    "auto_map at depth 50": Hostile({"part": _deep(50)}, REMOTE),
    "trust": Hostile({"trust_remote_code": True}, REMOTE),
    "trust as text": Hostile({"trust_remote_code": "yes"}, REMOTE),
    "trust in a part": Hostile({"vision_config": {"trust_remote_code": True}}, REMOTE),
    "trust in a list in a part": Hostile({"parts": [[{"_trust_remote_code": 1}]]}, REMOTE),
    "kernel": Hostile({"attn_implementation": "evil/kernel"}, REMOTE),
    "kernel with a function": Hostile({"attn_implementation": "evil/kernel:forward"}, REMOTE),
    "kernel, private": Hostile({"_attn_implementation_internal": "evil/kernel"}, REMOTE),
    "kernel, private and set": Hostile({"_attn_implementation": "evil/kernel"}, REMOTE),
    "kernel by part": Hostile({"attn_implementation": {"": "evil/kernel"}}, REMOTE),
    "kernel of experts": Hostile({"_experts_implementation": "evil/kernel"}, REMOTE),
    "kernel configuration": Hostile({"kernel_config": {"kernel_mapping": {"RMSNorm": "evil/kernel"}}}, REMOTE),
    "fused layers": Hostile({"fusion_config": {"patch_embeddings": True}}, REMOTE),
    "pipeline": Hostile({"custom_pipelines": {"text-generation": {"impl": "evil.Pipe"}}}, REMOTE),
    "generation code": Hostile({"custom_generate": "evil/repo"}, REMOTE, GENERATION),
    "tokenizer code": Hostile({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}, REMOTE, TOKENIZER),
    "weights quantised by a library": Hostile({"quantization_config": {"quant_method": "bitsandbytes"}}, BROKEN),
    "weights quantised by code": Hostile({"quantization_config": {"quant_method": "x", "modules": ["os"]}}, BROKEN),
    "unknown architecture": Hostile({"model_type": "evil"}, REFUSED),
    "architecture of parts": Hostile({"model_type": "llava"}, REFUSED),
    "architecture as a path": Hostile({"model_type": "../../evil"}, BROKEN),
    "10^9 layers": Hostile({"num_hidden_layers": 10**9}, BROKEN),
    "1,000 layers": Hostile({"num_hidden_layers": 1000}, BROKEN),
    "10^12 tokens": Hostile({"vocab_size": 10**12}, BROKEN),
    "a large middle": Hostile({"intermediate_size": 2**18}, BROKEN),
    "an architecture whose heads are 256 wide unless it says otherwise": Hostile(
        {"model_type": "gemma", "num_attention_heads": 2**14, "num_hidden_layers": 1000, "head_dim": None}, BROKEN
    ),
    "no width": Hostile({"hidden_size": None}, BROKEN),
    "half a character": Hostile({"eos_token": "\ud800"}, BROKEN, TOKENIZER),
    "half a character in a key": Hostile({"\ud800": 1}, BROKEN, TOKENIZER),
    "half a character in a template": Hostile({"chat_template": "{{ '\ud800' }}"}, BROKEN, TOKENIZER),
    "negative width": Hostile({"hidden_size": -64}, BROKEN),
    "width as text": Hostile({"hidden_size": "__import__('os').system('true')"}, BROKEN),
    "number format as an attribute": Hostile({"dtype": "load"}, BROKEN),
    "activation as an attribute": Hostile({"hidden_act": "os.system"}, "models.load_failed"),
    "rope of code": Hostile({"rope_scaling": {"rope_type": "default", "function": "evil.rope"}}, BROKEN),
    "infinite eps": Hostile({"rms_norm_eps": float("inf")}, BROKEN),
    "other weights": Hostile({"transformers_weights": "../../evil.safetensors"}, DROPPED),
    "another name": Hostile({"_name_or_path": "evil/repo", "name_or_path": "evil/repo"}, DROPPED),
    "plans for devices": Hostile({"tp_plan": "auto", "distributed_config": {"tp_size": 8}}, DROPPED),
    "private keys": Hostile({"_evil": {"a": [1]}, "__class__": "Evil", "_commit_hash": "0"}, DROPPED),
    "attributes of the class": Hostile({"extra_files": ["../x"], "sub_configs_defaults": {"a": 1}}, DROPPED),
    "labels that are none": Hostile({"id2label": {"0": {"x": 1}}}, "models.broken_config"),
    "labels without end": Hostile({"id2label": {str(each): "x" for each in range(100_001)}}, "models.broken_config"),
    "an encoder that looks back only": Hostile({"is_decoder": True}, "models.broken_config"),
    "another tokenizer file": Hostile({"tokenizer_file": "/etc/passwd", "vocab_file": "../x"}, DROPPED, TOKENIZER),
    "versions of the tokenizer": Hostile({"fast_tokenizer_files": ["../../tokenizer.json"]}, DROPPED, TOKENIZER),
    "tokenizer out of GGUF": Hostile({"gguf_file": "evil.gguf", "from_slow": True}, DROPPED, TOKENIZER),
    "an adapter that names a base": Hostile(
        {}, DROPPED, files={"adapter_config.json": json.dumps({"base_model_name_or_path": "evil/repo"})}
    ),
    "an index that leads out": Hostile(
        {}, DROPPED, files={"model.safetensors.index.json": json.dumps({"weight_map": {"a": "../../evil.safetensors"}})}
    ),
}
