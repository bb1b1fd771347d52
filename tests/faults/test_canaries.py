"""F1: pickles, tagged YAML and code in every place and disguise are never run, and are named."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from faults_canaries import AS_DATA, BESIDE_A_MODEL, IN_PLACE_OF, TAGS, Canary, pickled, torch_zip
from faults_tally import Tally
from fits import make_job
from safetensors.torch import save_file

from tunesmith.adapt.attach import attach
from tunesmith.adapt.files import CHANGE_FILES
from tunesmith.core import calibration
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.core.files import MANIFEST, write_json
from tunesmith.core.ledger import Ledger
from tunesmith.data.formats.files import list_files, read_file
from tunesmith.models.clean_room import tell_unopened, tell_unused
from tunesmith.models.gguf_import import read_origin
from tunesmith.models.load import load_model, resolve_base
from tunesmith.models.policy import Policy
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.recipe.load import load_recipe
from tunesmith.recipe.specs.adapt import LoraSpec
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.local import LocalRuntime
from tunesmith.ship.merge import merge
from tunesmith.train.loop import fit

pytestmark = pytest.mark.case("F1")


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """The file that a canary makes when it is run; the test ends with a look at it."""
    path = tmp_path / "canary-was-run"
    yield path
    assert not path.exists(), "something ran the canary"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_chat_model(tmp_path_factory.mktemp("canaries") / "tiny", layers=1)
    (folder / MANIFEST).unlink()
    return folder


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small adapter that changes something."""
    policy = Policy(load_model(tiny, dtype=torch.float32).model)
    attached = attach(policy, LoraSpec(kind="lora", rank=2), seed=1, base_name="tiny")
    folder = tmp_path_factory.mktemp("canaries") / "adapter"
    folder.mkdir()
    attached.save(folder, {name: torch.full_like(each, 0.01) for name, each in attached.delta().items()})
    return folder


def plant(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def told(folder: Path) -> str:
    said: list[Event] = []
    tell_unused(folder, Events(None, (said.append,)))
    return " ".join(str(event.values.get("files", "")) for event in said)


def refused(call: object, *arguments: object) -> TunesmithError:
    assert callable(call)
    with pytest.raises(TunesmithError) as caught:
        call(*arguments)
    return caught.value


def test_the_canary_works(tmp_path: Path) -> None:
    """What follows proves nothing unless unpickling leaves a trace."""
    pickle.loads(pickled(tmp_path / "trace")).close()
    assert (tmp_path / "trace").exists()


def test_beside_a_model_nothing_is_opened_and_all_are_named(
    tiny: Path, tmp_path: Path, marker: Path, tally: Tally
) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    for name, make in BESIDE_A_MODEL.items():
        plant(folder / name, make(marker))
        tally.count("canary files")
    assert load_model(resolve_base(str(folder)).path, dtype=torch.float32).model is not None
    said = told(folder)
    missing = [name for name in BESIDE_A_MODEL if name not in said]
    # the note names twenty and counts the rest
    assert len(missing) <= max(0, len(BESIDE_A_MODEL) - 20) and "(+2)" in said


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "weights.npz", "model.mdl"])
def test_alone_they_are_no_weights(tiny: Path, tmp_path: Path, marker: Path, tally: Tally, name: str) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    plant(folder / name, torch_zip(marker))
    tally.count("canary files")
    error = refused(resolve_base, str(folder))
    assert error.code == "models.pickle_only" and name in str(error.facts["files"])


@pytest.mark.parametrize("name", IN_PLACE_OF)
def test_in_place_of_a_file_that_is_read(tiny: Path, tmp_path: Path, marker: Path, tally: Tally, name: str) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    plant(folder / name, IN_PLACE_OF[name](marker))
    tally.count("canary files")
    error = refused(lambda: load_model(resolve_base(str(folder)).path, dtype=torch.float32))
    assert error.code.startswith("models.") and name.split(".")[0] in f"{error}"


def test_the_notes_of_a_conversion(tmp_path: Path, marker: Path, tally: Tally) -> None:
    for name, read in (("origin.json", read_origin),):
        plant(tmp_path / name, pickled(marker))
        tally.count("canary files")
        assert refused(read, tmp_path).code == "models.broken_config"
    plant(tmp_path / "cache" / "calibration.json", pickled(marker))
    tally.count("canary files")
    assert calibration.load(tmp_path / "cache") == []


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", ".hidden.mdl", "training_args.bin"])
def test_in_a_checkpoint(tiny: Path, tmp_path: Path, marker: Path, tally: Tally, name: str) -> None:
    """A checkpoint has a list of its files: one more is a damaged checkpoint."""
    runtime = LocalRuntime(RuntimeSpec(threads=1, device="cpu"))
    settings = {"epochs": 1.0, "save_steps": 2}
    fit(make_job(tiny, tmp_path / "stage", runtime, settings=settings, rows=8))
    checkpoint = next((tmp_path / "stage").glob("checkpoint-*"))
    plant(checkpoint / name, BESIDE_A_MODEL[name](marker))
    tally.count("canary files")
    for other in (tmp_path / "stage").glob("checkpoint-*"):
        if other != checkpoint:
            shutil.rmtree(other)
    error = refused(lambda: fit(make_job(tiny, tmp_path / "stage", runtime, settings=settings, rows=8)))
    assert error.code == "train.no_valid_checkpoint" and name in str(error)


def test_beside_an_adapter(tiny: Path, adapter: Path, tmp_path: Path, marker: Path, tally: Tally) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    for name in ("adapter_model.bin", "value_head.bin", "optimizer.pt", "training_args.bin"):
        plant(folder / name, BESIDE_A_MODEL[name](marker))
        tally.count("canary files")
    assert merge(resolve_base(str(tiny)), folder).changed
    said: list[Event] = []
    tell_unopened(folder, CHANGE_FILES, Events(None, (said.append,)))
    assert all(name in str(said[0].values["files"]) for name in ("adapter_model.bin", "value_head.bin"))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_in_place_of_an_adapter(
    tiny: Path, adapter: Path, tmp_path: Path, marker: Path, tally: Tally, name: str
) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    plant(folder / name, torch_zip(marker))
    tally.count("canary files")
    error = refused(merge, resolve_base(str(tiny)), folder)
    assert error.code in ("models.broken_config", "models.broken_weights") and name in str(error)


def test_an_adapter_may_not_name_a_module(tiny: Path, adapter: Path, tmp_path: Path, tally: Tally) -> None:
    """PEFT imports the module that `megatron_core` names; it is never told."""
    folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    config = json.loads((folder / "adapter_config.json").read_text())
    for settings in (
        {"megatron_config": {"x": 1}, "megatron_core": "this"},
        {"loftq_config": {"loftq_bits": 4}},
        {"corda_config": {"cache_file": "evil.pt"}},
        {"init_lora_weights": "pissa"},
        {"modules_to_save": ["lm_head"]},
    ):
        write_json(folder / "adapter_config.json", {**config, **settings})
        tally.count("canary files")
        error = refused(merge, resolve_base(str(tiny)), folder)
        assert error.code == "ship.unmergeable" and next(iter(settings)) in str(error)


@pytest.mark.parametrize("name", AS_DATA)
def test_as_rows(tmp_path: Path, marker: Path, tally: Tally, name: str) -> None:
    path = tmp_path / "data" / name
    plant(path, AS_DATA[name](marker))
    tally.count("canary files")
    error = refused(lambda: [read_file(each) for each in list_files(path)[0]])
    assert error.code.startswith("data.") and name in str(error)


def test_in_a_folder_of_rows(tmp_path: Path, marker: Path, tally: Tally) -> None:
    folder = tmp_path / "data"
    plant(folder / "good.jsonl", b'{"prompt": "a", "answer": "b"}\n')
    others = [name for name in AS_DATA if not name.endswith((".jsonl", ".csv", ".parquet", ".arrow", ".zip", ".tar"))]
    for name in others:
        plant(folder / name, AS_DATA[name](marker))
        tally.count("canary files")
    taken, passed_over = list_files(folder)
    assert [path.name for path in taken] == ["good.jsonl"]
    assert {path.name for path in passed_over} == set(others)


@pytest.mark.parametrize("tag", TAGS)
def test_in_a_recipe(tmp_path: Path, marker: Path, tally: Tally, tag: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: {tag.format(marker=str(marker))}\nmodel: {{base: x}}\n")
    tally.count("canary files")
    error = refused(load_recipe, path)
    assert error.code == "recipe.broken_yaml" and "recipe.yaml" in str(error)


def test_a_pickle_is_no_recipe_and_no_ledger(tmp_path: Path, marker: Path, tally: Tally) -> None:
    for name, read in (("recipe.yaml", load_recipe), ("ledger.jsonl", Ledger.load)):
        plant(tmp_path / name, pickled(marker))
        tally.count("canary files")
        assert name in str(refused(read, tmp_path / name))


def test_a_safetensors_file_may_carry_a_pickle_only_as_bytes(tmp_path: Path, marker: Path, tally: Tally) -> None:
    """A pickle as a tensor's bytes or as a text of the metadata is data, and stays data."""
    content = torch.frombuffer(bytearray(pickle.dumps(Canary(marker))), dtype=torch.uint8)
    folder = tiny_chat_model(tmp_path / "model", layers=1)
    (folder / MANIFEST).unlink()
    save_file({"canary": content}, folder / "model.safetensors", metadata={"format": "pt", "p": str(content.tolist())})
    tally.count("canary files")
    assert refused(lambda: load_model(folder, dtype=torch.float32)).code.startswith("models.")
