"""Each way of adapting trains what it says: each byte of the rest stays, each trained tensor moves, the count fits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import torch
from faults_tally import Tally
from faults_training import bytes_of
from fits import local, make_job
from torch import nn
from transformers import LlamaConfig

from tunesmith.core.files import read_json
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.recipe.specs.model import Quantize
from tunesmith.train.loop import fit


@dataclass(frozen=True)
class Shape:
    """The sizes that the formulas need."""

    hidden: int
    inner: int
    layers: int
    head: int
    heads: int
    key_value_heads: int
    vocabulary: int

    @classmethod
    def of(cls, base: Path) -> Shape:
        config = LlamaConfig.from_dict(read_json(base / "config.json"))
        return cls(
            config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.head_dim,
            config.num_attention_heads, config.num_key_value_heads, config.vocab_size,
        )  # fmt: skip

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each linear layer of a block."""
        queries, keys = self.heads * self.head, self.key_value_heads * self.head
        return {
            "q_proj": (self.hidden, queries), "k_proj": (self.hidden, keys), "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden), "gate_proj": (self.hidden, self.inner),
            "up_proj": (self.hidden, self.inner), "down_proj": (self.inner, self.hidden),
        }  # fmt: skip


def lora(*names: str) -> Callable[[Shape, int], int]:
    """Rank times inputs and outputs, of every named layer in every block."""
    return lambda shape, rank: (
        shape.layers
        * sum(rank * (inputs + outputs) for name, (inputs, outputs) in shape.linears.items() if name in names)
    )


def full(shape: Shape, rank: int) -> int:
    """The embedding, which is also the head; the linear layers, two norms a block, and the last norm."""
    block = sum(inputs * outputs for inputs, outputs in shape.linears.values()) + 2 * shape.hidden
    return shape.vocabulary * shape.hidden + shape.layers * block + shape.hidden


def bottleneck(places: int) -> Callable[[Shape, int], int]:
    """Two matrices of 8 rows and their biases in every place of every block."""
    return lambda shape, rank: shape.layers * places * (2 * 8 * shape.hidden + 8 + shape.hidden)


ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ADAPTATIONS: dict[str, tuple[dict[str, object], Callable[[Shape, int], int]]] = {
    "lora on all linears": ({"target_modules": "all-linear"}, lora(*ATTENTION, "gate_proj", "up_proj", "down_proj")),
    "full": ({"kind": "full"}, full),
    "lora on attention": ({"target_modules": "attention"}, lora(*ATTENTION)),
    "lora on two named layers": ({"target_modules": ["q_proj", "v_proj"]}, lora("q_proj", "v_proj")),
    "lora with dropout": ({"lora_dropout": 0.2}, lora(*ATTENTION, "gate_proj", "up_proj", "down_proj")),
    "bottlenecks after attention and MLP": (
        {"kind": "bottleneck", "size": 8, "places": "houlsby"},
        bottleneck(2),
    ),
    "bottlenecks after the MLP": ({"kind": "bottleneck", "size": 8}, bottleneck(1)),
    "bottlenecks beside the MLP": ({"kind": "bottleneck", "size": 8, "places": "parallel"}, bottleneck(1)),
    "LoRA experts on each MLP": (
        {"kind": "lora-experts", "new_experts": 2, "rank": 3},
        lambda shape, rank: shape.layers * 2 * (3 * 3 * (shape.hidden + shape.inner) + shape.hidden),
    ),
    "virtual tokens": ({"kind": "prompt", "num_virtual_tokens": 6}, lambda shape, rank: 6 * shape.hidden),
    "virtual tokens by an MLP": (
        {"kind": "p-tuning", "num_virtual_tokens": 6, "encoder_hidden_size": 8},
        lambda shape, rank: 6 * shape.hidden + (shape.hidden + 1) * 8 + 9 * 8 + 9 * shape.hidden,
    ),
    "virtual tokens by an LSTM": (
        {
            "kind": "p-tuning",
            "num_virtual_tokens": 6,
            "encoder_hidden_size": 8,
            "encoder_reparameterization_type": "lstm",
            "encoder_num_layers": 1,
        },
        lambda shape, rank: 6 * shape.hidden + 2 * 32 * (shape.hidden + 8 + 2) + 17 * 16 + 17 * shape.hidden,
    ),
    "keys and values": (
        {"kind": "prefix", "num_virtual_tokens": 6},
        lambda shape, rank: 6 * shape.layers * 2 * shape.key_value_heads * shape.head,
    ),
    "keys and values by a network": (
        {"kind": "prefix", "num_virtual_tokens": 6, "prefix_projection": True, "encoder_hidden_size": 8},
        lambda shape, rank: (
            (keys := shape.key_value_heads * shape.head) * 6 + (keys + 1) * 8 + 9 * shape.layers * 2 * keys
        ),
    ),
    "lora beside nf4": ({"quantize": "nf4"}, lora(*ATTENTION, "gate_proj", "up_proj", "down_proj")),
    "lora beside int8": ({"quantize": "int8"}, lora(*ATTENTION, "gate_proj", "up_proj", "down_proj")),
    "lora of rank 1": ({"rank": 1}, lora(*ATTENTION, "gate_proj", "up_proj", "down_proj")),
}


def hashes(policy: nn.Module) -> dict[str, str]:
    """SHA-256 of the bytes of every parameter and buffer."""
    named = [*policy.named_parameters(), *policy.named_buffers()]
    return {name: hashlib.sha256(bytes_of(each)).hexdigest() for name, each in named}


@pytest.mark.case("C7")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ADAPTATIONS)
def test_what_is_frozen_stays_and_what_is_trained_moves(tmp_path: Path, tally: Tally, name: str) -> None:
    base = tiny_chat_model(tmp_path / "base", spread=0.1)
    stated, formula = ADAPTATIONS[name]
    adapt = {key: value for key, value in stated.items() if key != "quantize"}
    quantize = cast(Quantize, stated.get("quantize", "none"))
    ways = [(torch.bfloat16, "auto", "adamw"), (torch.float32, "plain", "sgd"), (torch.float32, "auto", "adamw"),
            (torch.bfloat16, "plain", "adamw")]  # fmt: skip
    for place, (dtype, blocks, optimizer) in enumerate(ways[: tally.amount(1, 4)]):
        settings = {"blocks": blocks, "optimizer": optimizer, "learning_rate": 0.05, "max_grad_norm": 1e9}
        job = make_job(
            base,
            tmp_path / str(place),
            local(),
            settings=settings,
            adapt=adapt,
            dtype=dtype,
            rows=12,
            quantize=quantize,
        )
        trained = {each for each, parameter in job.policy.named_parameters() if parameter.requires_grad}
        assert trained == set(job.optimizer.masters)
        before = hashes(job.policy)
        fit(job)
        after = hashes(job.policy)
        assert before.keys() == after.keys()
        assert {each for each in before if before[each] != after[each]} == trained
        count = sum(each.numel() for each in job.policy.parameters() if each.requires_grad)
        rank = int(str(adapt.get("rank", 4)))
        assert count == formula(Shape.of(base), rank)
        tally.count("tensors compared before and after", len(before))
