"""The bundled GGUF file as a model folder, checked against llama.cpp itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tunesmith.core.errors import TunesmithError
from tunesmith.models.byte_bpe import PRE_TOKENIZERS, build_tokenizer, pre_tokenizer, pre_tokenizer_name
from tunesmith.models.catalog import bundled_file, find
from tunesmith.models.gguf_import import import_gguf, read_origin
from tunesmith.models.gguf_layout import from_gguf_order, to_gguf_order
from tunesmith.models.load import load_model, load_tokenizer, resolve_base
from tunesmith.ship.formats.llama_cpp import LlamaJudge

PIECES = [
    "The parcel arrived, didn't it? I'll wait till 5pm.",
    "Order no. 1234567890 costs $19.99 (20% off)",
    "def f(x):\n    return x ** 2  # square\n\n\tprint(f(3))",
    "你好，我的订单 20240131 什么时候发货？",
    "混合 mixed 文本 with 数字１２３ and ④ Ⅷ ½",
    "🙂👩‍👩‍👧‍👦 café naïve e\u0301 Ünïcödé",
    "spaces   in    rows \t\ttabs\n\n\nlines \r\n end  ",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    '{"intent": "refund", "order": null, "n": -1.5e-7}',
    "<|endoftext|><repo_name>x<|im_end",
]


def texts(count: int) -> list[str]:
    """Mixtures of the pieces, cut at places that a seed draws."""
    draw = np.random.default_rng(7)
    made = list(PIECES)
    while len(made) < count:
        one, two = draw.choice(len(PIECES), 2)
        first, last = PIECES[one], PIECES[two]
        made.append(
            first[: draw.integers(1, len(first))] + last[draw.integers(0, len(last)) :] + str(draw.integers(9999))
        )
    return made


@pytest.fixture(scope="module")
def bundled() -> Path:
    model = find("smollm2-135m")
    assert model is not None
    return bundled_file(model)


def test_ids_equal_llama_cpp_on_200_texts_and_best_tokens_agree(smollm2: Path, bundled: Path) -> None:
    loaded = load_model(smollm2, dtype=torch.float32)
    prompt = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Name three colours."}], tokenize=False, add_generation_prompt=True
    )
    answer = loaded.tokenizer("Red, green and blue are three colours that most people know.").input_ids
    with LlamaJudge(bundled, context=512, slots=2) as judge:
        for text in texts(200):
            assert judge.tokenize(text) == loaded.tokenizer(text, add_special_tokens=False).input_ids, text
        assert judge.render([{"role": "user", "content": "Name three colours."}], ask=True) == prompt
        prompt_ids = loaded.tokenizer(prompt).input_ids
        found = judge.best_tokens(prompt_ids, answer)
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([prompt_ids + answer[:-1]])).logits[0, -len(answer) :]
    own = logits.argmax(-1).tolist()
    # llama.cpp multiplies the 4-bit weights with 8-bit activations, so near ties may fall the other way
    assert sum(a == b for a, b in zip(found, own, strict=True)) >= len(answer) - 2


def test_the_bundle_is_described_and_made_once(smollm2: Path, bundled: Path) -> None:
    base = resolve_base("smollm2-135m")
    assert (base.licence, base.origin.quantization, base.origin.lossy) == ("Apache-2.0", "Q4_1", True)
    assert read_origin(smollm2)["sha256"] == base.origin.file_sha256
    tokenizer = load_tokenizer(smollm2)
    assert pre_tokenizer_name(tokenizer.backend_tokenizer) == "smollm"
    assert tokenizer.convert_ids_to_tokens([1, 2]) == ["<|im_start|>", "<|im_end|>"]


def test_the_rows_change_order_and_come_back() -> None:
    rows = np.arange(24 * 5, dtype=np.float32).reshape(24, 5)
    turned = to_gguf_order(rows, 3)
    # llama.cpp's converter: reshape(heads, 2, half, ...) with the middle axes swapped
    assert np.array_equal(turned[:8, 0], rows[[0, 4, 1, 5, 2, 6, 3, 7], 0])
    assert np.array_equal(from_gguf_order(turned, 3), rows)


def test_every_split_is_found_again_by_its_name() -> None:
    for name in PRE_TOKENIZERS:
        tokenizer = build_tokenizer(["a", "b", "ab"], [("a", "b")], [], name)
        assert pre_tokenizer_name(tokenizer) == name
    with pytest.raises(TunesmithError) as caught:
        pre_tokenizer("deepseek-unheard-of")
    assert caught.value.code == "models.unknown_pre_tokenizer"


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + b"\x03\0\0\0" + b"\xff" * 40, b"not a model" * 20])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(TunesmithError) as caught:
        import_gguf(path)
    assert caught.value.code == "models.broken_gguf"
