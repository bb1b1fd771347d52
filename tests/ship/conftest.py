"""A tiny model that has learned something, its adapter and chats, made once for all tests of shipping."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import PreTrainedModel

from tunesmith.core.types import Message
from tunesmith.models.load import BaseFolder, load_model, resolve_base
from tunesmith.models.tiny import tiny_chat_model

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Trained(NamedTuple):
    base: BaseFolder
    adapter: Path
    chats: list[list[Message]]


def some_chats(count: int) -> list[list[Message]]:
    words = ["parcel", "invoice", "lamp", "订单", "退款 2024", "🙂 thanks", "a  b\t c\n d"]
    chats = []
    for number in range(count):
        word = words[number % len(words)]
        chat = [Message("user", f"Where is my {word} number {number}?"), Message("assistant", f"The {word} is fine.")]
        if number % 3 == 0:
            chat.insert(0, Message("system", "You answer in one line. 请简短回答。"))
        if number % 5 == 0:
            chat += [Message("user", "Thank you 谢谢"), Message("assistant", f"No problem, {number}!")]
        chats.append(chat)
    return chats


def with_lora(model: PreTrainedModel, base: BaseFolder, rank: int) -> PeftModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers in a way that is going out
        wrapped = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS))
    wrapped.peft_config["default"].base_model_name_or_path = base.name
    return wrapped


def train_adapter(base: BaseFolder, folder: Path, chats: list[list[Message]], *, steps: int, rank: int = 8) -> Path:
    """A short real fit with PEFT, so that the most likely tokens are well apart."""
    torch.manual_seed(0)
    loaded = load_model(base.path, dtype=torch.float32)
    model = with_lora(loaded.model, base, rank)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    texts = [
        loaded.tokenizer.apply_chat_template([{"role": m.role, "content": m.content} for m in c], tokenize=False)
        for c in chats[:8]
    ]
    batch = loaded.tokenizer(texts, return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for _ in range(steps):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("tiny")
    base = resolve_base(str(tiny_chat_model(root / "base", spread=0.2, heads=2)))
    chats = some_chats(12)
    return Trained(base, train_adapter(base, root / "adapter", chats, steps=60), chats)


@pytest.fixture(scope="session")
def smollm2_trained(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A seeded random adapter on the real model: enough to change its answers, and made in no time."""
    base = resolve_base("smollm2-135m")
    root = tmp_path_factory.mktemp("real")
    torch.manual_seed(1)
    model = with_lora(load_model(base.path, dtype=torch.float32).model, base, rank=4)
    tensors = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            drawn = parameter.detach().clone() if ".lora_A." in name else torch.randn_like(parameter) * 0.02
            tensors[name.replace(".default", "")] = drawn
    model.peft_config["default"].save_pretrained(str(root / "adapter"))
    save_file(tensors, root / "adapter" / "adapter_model.safetensors")
    return Trained(base, root / "adapter", some_chats(4))
