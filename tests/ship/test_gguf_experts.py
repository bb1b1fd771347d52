"""Models with experts as GGUF: llama.cpp says what transformers says; what it would compute otherwise is refused."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import read_json
from tunesmith.core.types import Message
from tunesmith.models.load import load_tokenizer, template_of
from tunesmith.models.tiny import tiny_moe_model
from tunesmith.models.weights import read_weights
from tunesmith.ship.evaluated import Turn, answer_turns, broken_tokens
from tunesmith.ship.formats import gguf as gguf_format
from tunesmith.ship.formats.gguf import gguf_path, write_gguf
from tunesmith.ship.formats.llama_cpp import LlamaJudge
from tunesmith.ship.stored_types import other_types

ARCHITECTURES = ("mixtral", "qwen2_moe", "qwen3_moe")
FIRM = 0.02
"""Where the two likeliest tokens are nearer to each other than this, rounding may choose."""


@pytest.fixture(scope="module", params=ARCHITECTURES)
def moe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_moe_model(tmp_path_factory.mktemp("tiny") / "base", request.param, spread=0.15)


def turns_of(base: Path) -> list[Turn]:
    chats = [
        [Message("user", f"Where is parcel {number} 订单?"), Message("assistant", f"It left on day {number}, as said.")]
        for number in range(6)
    ]
    return answer_turns(load_tokenizer(base), chats, 256)


def written(base: Path, folder: Path, kind: str) -> Path:
    folder.mkdir()
    tokenizer = load_tokenizer(base)
    return write_gguf(
        folder, kind, read_weights(base), base, tokenizer, template_of(tokenizer), name="tiny", licence=""
    )


def agreement(base: Path, path: Path) -> tuple[float, int]:
    """Share of positions of equal likeliest tokens among those where transformers is sure, and their number."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    turns, same, sure = turns_of(base), 0, 0
    with LlamaJudge(path, context=256, slots=1) as judge:
        for turn in turns:
            with torch.no_grad():
                logits_TV = model(torch.tensor([[*turn.prompt, *turn.answer]])).logits[0]
            logits_KV = logits_TV[len(turn.prompt) - 1 : -1]
            best = logits_KV.topk(2).values
            said = judge.best_tokens(turn.prompt, turn.answer, broken_tokens(load_tokenizer(base), turns))
            for place, token in enumerate(said):
                if float(best[place, 0] - best[place, 1]) >= FIRM:
                    sure += 1
                    same += token == int(logits_KV[place].argmax())
    return same / sure, sure


def test_llama_cpp_says_what_transformers_says(moe: Path, tmp_path: Path) -> None:
    path = written(moe, tmp_path / "f16", "gguf-f16")
    assert other_types(path, "gguf-f16") == 0
    share, positions = agreement(moe, path)
    assert positions > 60 and share >= 0.99, (share, positions)


def test_q8_0_holds_the_experts_in_blocks(moe: Path, tmp_path: Path) -> None:
    path = written(moe, tmp_path / "q8", "gguf-q8_0")
    assert other_types(path, "gguf-q8_0") == 0
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    up = stored["blk.0.ffn_up_exps.weight"]
    assert up.tensor_type == gguf.GGMLQuantizationType.Q8_0 and int(up.shape[2]) == 4
    assert stored["blk.0.ffn_gate_inp.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    share, _ = agreement(moe, path)
    assert share >= 0.9, share


def test_experts_in_another_order_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_moe_model(tmp_path / "base", "qwen3_moe", spread=0.15)
    in_order = gguf_format.parts_of
    monkeypatch.setattr(gguf_format, "parts_of", lambda name, experts: in_order(name, experts)[::-1])
    path = written(base, tmp_path / "turned", "gguf-f16")
    share, _ = agreement(base, path)
    assert share < 0.9, share


@pytest.mark.parametrize(
    ("architecture", "setting", "value"),
    [
        ("qwen2_moe", "norm_topk_prob", True),
        ("qwen3_moe", "norm_topk_prob", False),
        ("qwen3_moe", "mlp_only_layers", [0]),
        ("qwen2_moe", "decoder_sparse_step", 2),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(
    architecture: str, setting: str, value: object, tmp_path: Path
) -> None:
    base = tiny_moe_model(tmp_path / "base", architecture)
    tokenizer, weights = load_tokenizer(base), read_weights(base)
    (tmp_path / "config.json").write_text(json.dumps({**read_json(base / "config.json"), setting: value}), "utf-8")
    with pytest.raises(TunesmithError) as caught:
        write_gguf(tmp_path, "gguf-f16", weights, tmp_path, tokenizer, "", name="tiny", licence="")
    assert caught.value.code == "models.unknown_architecture"
    assert setting in str(caught.value.facts["architecture"])
    assert not gguf_path(tmp_path).exists(), "nothing is begun"
