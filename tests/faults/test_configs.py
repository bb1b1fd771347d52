"""F2: configurations that name code, kernels, other files or sizes out of all proportion."""

from __future__ import annotations

import json
import shutil
import time
import tracemalloc
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from faults_configs import CONFIG, DROPPED, HOSTILE, Hostile
from faults_network import no_connections
from faults_tally import Tally
from transformers import CONFIG_MAPPING

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import MANIFEST, read_json
from tunesmith.models.allowed import ARCHITECTURES, CONFIG_KEYS
from tunesmith.models.clean_room import contents
from tunesmith.models.load import Loaded, load_model, resolve_base
from tunesmith.models.sites import _ROLES
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.ship.formats.safetensors import write_safetensors
from tunesmith.ship.merge import read_weights

pytestmark = pytest.mark.case("F2")

NEUTRAL = {
    "output_hidden_states", "return_dict", "chunk_size_feed_forward", "is_encoder_decoder", "problem_type", "id2label",
    "label2id", "output_router_logits",
}  # fmt: skip
"""Fields of every configuration that say nothing about a causal language model's weights."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_chat_model(tmp_path_factory.mktemp("configs") / "tiny", layers=1)
    (folder / MANIFEST).unlink()
    return folder


def planted(tiny: Path, folder: Path, hostile: Hostile) -> Path:
    shutil.copytree(tiny, folder)
    path = folder / hostile.file
    values = read_json(path) if path.is_file() else {}
    path.write_text(json.dumps({**values, **hostile.values}))
    (folder / "modeling_evil.py").write_text(f"open({str(folder / 'was-run')!r}, 'w')\nclass Evil: pass\n")
    for name, text in hostile.files.items():
        (folder / name).write_text(text)
    return folder


def load(folder: Path) -> Loaded:
    return load_model(resolve_base(str(folder)).path, dtype=torch.float32)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_configuration(tiny: Path, tmp_path: Path, tally: Tally, name: str) -> None:
    hostile = HOSTILE[name]
    folder = planted(tiny, tmp_path / "model", hostile)
    tally.count("hostile configurations")
    tracemalloc.start()
    try:
        with no_connections() as tried:
            if hostile.answer == DROPPED:
                found = load(folder)
            else:
                with pytest.raises(TunesmithError) as caught:
                    load(folder)
                assert caught.value.code == hostile.answer
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    assert tried == []
    assert not (folder / "was-run").exists()
    if hostile.answer == DROPPED:
        named = contents(folder)
        for key in hostile.values:
            assert f"{hostile.file}: {key}" in named.dropped
        assert set(hostile.files) <= set(named.unopened)
        same(found, load(tiny))


def same(one: Loaded, other: Loaded) -> None:
    pairs = zip(one.model.state_dict().items(), other.model.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
    text = "<|im_start|>user\n你好 1<|im_end|>"
    assert one.tokenizer(text).input_ids == other.tokenizer(text).input_ids


def test_a_configuration_that_leaves_sizes_out(tiny: Path, tmp_path: Path, tally: Tally) -> None:
    """What transformers takes for a missing size is billions of weights, and none of them is made."""
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    (folder / CONFIG).write_text(json.dumps({"model_type": "llama"}))
    tally.count("hostile configurations")
    with pytest.raises(TunesmithError) as caught:
        load(folder)
    assert caught.value.code == "models.broken_config" and "6.6" in str(caught.value)


@pytest.mark.parametrize(("name", "answer"), [("origin.json", "models.broken_config"), (MANIFEST, "core.broken_json")])
def test_files_of_ours_that_others_wrote(tiny: Path, tmp_path: Path, tally: Tally, name: str, answer: str) -> None:
    for text in ("[" * 200_000, '{"files":' * 100_000, '{"a": "\\'):
        folder = Path(shutil.copytree(tiny, tmp_path / str(len(text))))
        (folder / name).write_text(text)
        tally.count("hostile configurations")
        with pytest.raises(TunesmithError) as caught:
            load(folder)
        assert caught.value.code == answer


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"a":' * 100_000, '{"x": "' + "y" * (2 << 20) + '"}', "{" + '"a":1,' * 9]
)
def test_a_configuration_that_is_too_deep_too_long_or_cut(tiny: Path, tmp_path: Path, tally: Tally, text: str) -> None:
    for name in (CONFIG, "tokenizer_config.json", "generation_config.json", "special_tokens_map.json"):
        folder = Path(shutil.copytree(tiny, tmp_path / name))
        (folder / name).write_text(text)
        tally.count("hostile configurations")
        if "yyy" in text and name.startswith(("tokenizer", "special")):
            assert f"{name}: x" in contents(folder).dropped  # long, and no key of ours
            continue
        with pytest.raises(TunesmithError) as caught:
            load(folder)
        assert caught.value.code == "models.broken_config" and name in str(caught.value)


def test_many_values_far_down_take_no_longer(tiny: Path, tmp_path: Path, tally: Tally) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    deep = '{"kernel":' * 800 + "[" + '{"a":"b"},' * 200_000 + "1]" + "}" * 800
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>", "x": ' + deep + "}")
    tally.count("hostile configurations")
    started = time.process_time()
    assert "tokenizer_config.json: x" in contents(folder).dropped
    assert time.process_time() - started < 2


def test_what_is_not_used_is_not_handed_on(tiny: Path, tmp_path: Path, tally: Tally) -> None:
    """The published folder says only what was used here, for loaders that would obey more."""
    folder = planted(tiny, tmp_path / "model", HOSTILE["other weights"])
    tokenizer = read_json(folder / "tokenizer_config.json")
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "tokenizer_file": "/etc/passwd"}))
    (tmp_path / "out").mkdir()
    write_safetensors(tmp_path / "out", read_weights(folder), folder, folder, torch.float32)
    tally.count("hostile configurations")
    assert "transformers_weights" not in read_json(tmp_path / "out" / CONFIG)
    assert "tokenizer_file" not in read_json(tmp_path / "out" / "tokenizer_config.json")
    same(load(tmp_path / "out"), load(tiny))


def test_the_list_knows_every_setting_of_its_architectures() -> None:
    """A setting that is dropped although it means something would change a model without a word."""
    for architecture in ARCHITECTURES:
        names = {field.name for field in fields(CONFIG_MAPPING[architecture]) if not field.name.startswith("_")}
        assert names - NEUTRAL - set(CONFIG_KEYS) == set(), architecture


def test_every_architecture_with_known_layers_is_loaded() -> None:
    assert set(_ROLES) <= ARCHITECTURES
