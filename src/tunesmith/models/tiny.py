"""Real models in well under a second: a small random Llama, or BERT, with its own tokenizer, for tests and dry runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from tunesmith.core.files import new_folder
from tunesmith.models.byte_bpe import build_tokenizer, merges_of, pre_tokenizer, write_tokenizer

CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML: a turn is `<|im_start|>role`, a line break, the text, `<|im_end|>`, a line break."""

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_START_ID, _END_ID = 1, 2

_LINES = (
    "The quick brown fox jumps over the lazy dog. I would like to return my order, please.",
    'Answer with JSON: {"intent": "refund", "product": "lamp", "urgency": "high", "order": null}',
    "Where is my parcel? It was due on Monday and the tracking page has not changed since then.",
    "你好，请问我的订单什么时候发货？谢谢您的帮助。",
    "user system assistant What is the time? Thank you for the help with the broken headphones.",
)


def tiny_chat_model(
    directory: Path,
    *,
    vocabulary: int = 384,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    key_value_heads: int = 2,
    context: int = 512,
    seed: int = 0,
    spread: float = 0.02,
) -> Path:
    """Write a random Llama in the Hugging Face layout and return its folder.

    Args:
        directory: the folder to make.
        vocabulary: size wanted; never under the 256 bytes and the control tokens.
        layers, hidden, heads, key_value_heads: its shape; hidden is a multiple of 32 so that Q8_0 can hold it.
        context: longest input in tokens.
        seed: of the weights; the same seed gives the same bytes.
        spread: standard deviation of the weights; with 0.02 all next tokens are nearly equally likely.
    """
    tokenizer = tiny_tokenizer(vocabulary)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden,
        intermediate_size=hidden * 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=context,
        initializer_range=spread,
        tie_word_embeddings=True,
        bos_token_id=_START_ID,
        eos_token_id=_END_ID,
        pad_token_id=_END_ID,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with new_folder(directory) as folder:
        weights = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})  # the head is the embedding
        config.architectures = ["LlamaForCausalLM"]
        config.dtype = "float32"
        config.save_pretrained(folder)
        write_tokenizer(folder, tokenizer, CHATML_TEMPLATE, bos="<|im_start|>", eos="<|im_end|>", context=context)
    return directory


def tiny_encoder(
    directory: Path,
    *,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    context: int = 128,
    seed: int = 0,
    spread: float = 0.02,
) -> Path:
    """Write a random BERT without a head in the Hugging Face layout and return its folder.

    A text stands between a start and an end token, as BERT's between [CLS] and [SEP]. Arguments: see `tiny_chat_model`.
    """
    tokenizer = tiny_tokenizer()
    start, end = CONTROL_TOKENS[_START_ID], CONTROL_TOKENS[_END_ID]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, _START_ID), (end, _END_ID)]
    )
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden,
        intermediate_size=hidden * 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        initializer_range=spread,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config)
    with new_folder(directory) as folder:
        save_file(dict(model.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})
        config.architectures = ["BertModel"]
        config.dtype = "float32"
        config.save_pretrained(folder)
        write_tokenizer(folder, tokenizer, "", bos=start, eos=end, pad=CONTROL_TOKENS[0], context=context)
    return directory


def tiny_moe_model(
    directory: Path, architecture: str = "qwen3_moe", *, experts: int = 4, layers: int = 2, spread: float = 0.1
) -> Path:
    """Write a random model with experts, two of which every token meets, in the files of its family.

    Args:
        directory: the folder to make.
        architecture: mixtral, qwen2_moe or qwen3_moe.
        experts: of each block.
        spread: standard deviation of the weights.
    """
    tokenizer = tiny_tokenizer()
    shared = {
        "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts_per_tok": 2,
        "max_position_embeddings": 2048, "initializer_range": spread, "tie_word_embeddings": True,
        "bos_token_id": _START_ID, "eos_token_id": _END_ID, "pad_token_id": _END_ID,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _moe(architecture, experts, shared)
        for name, parameter in model.named_parameters():
            if name.endswith("mlp.gate.weight"):
                torch.nn.init.normal_(parameter, std=5 * spread)  # so that rows differ in their experts
    transformers_logging.disable_progress_bar()
    with new_folder(directory) as folder:
        model.save_pretrained(folder)
        write_tokenizer(folder, tokenizer, CHATML_TEMPLATE, bos="<|im_start|>", eos="<|im_end|>", context=2048)
    return directory


def _moe(architecture: str, experts: int, shared: Mapping[str, object]) -> PreTrainedModel:
    count = {"num_local_experts" if architecture == "mixtral" else "num_experts": experts}
    if architecture != "mixtral":  # whether shares are divided by their sum: as the families' own models have it
        shared = {**shared, "moe_intermediate_size": 24, "norm_topk_prob": architecture == "qwen3_moe"}
    if architecture == "qwen2_moe":
        shared = {**shared, "shared_expert_intermediate_size": 40}
    config = AutoConfig.for_model(architecture, **shared, **count)
    return cast(PreTrainedModel, AutoModelForCausalLM.from_config(config))


def tiny_tokenizer(vocabulary: int = 384) -> Tokenizer:
    """A byte-level BPE tokenizer trained on a few lines; every text can be encoded. The same call, the same ids."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizer("smollm")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocabulary, len(alphabet) + len(CONTROL_TOKENS)),
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    learner.train_from_iterator(_LINES, trainer)
    learned = learner.get_vocab()
    return build_tokenizer(
        tokens=sorted(learned, key=learned.__getitem__),
        merges=merges_of(learner),
        control=CONTROL_TOKENS,
        pre="smollm",
    )
