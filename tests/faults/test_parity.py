"""An artefact with a planted fault is refused by the gate, and nothing of it is published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from faults_tally import Tally
from fits import examples, local, make_job
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import verify_folder
from tunesmith.core.types import Message
from tunesmith.models.load import BaseFolder, resolve_base
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.recipe.specs.ship import ParityLimits, ShipFormat
from tunesmith.ship import publish
from tunesmith.ship.parity_chats import FIXED_CHATS
from tunesmith.train.loop import fit

LAYER = "model.layers.1.mlp.down_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Trained:
    """A base, a change that was trained on it, and chats."""

    base: BaseFolder
    change: Path
    chats: list[list[Message]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("parity")
    base = tiny_chat_model(folder / "base", spread=0.2, heads=2)
    job = make_job(base, folder / "fit", local(), settings={"epochs": 4.0, "learning_rate": 2e-2}, rows=58)
    fit(job)
    chats = [*FIXED_CHATS, *(list(each.messages) for each in examples(58))]
    return Trained(resolve_base(str(base)), folder / "fit" / "best", chats)


def ship(run: Path, trained: Trained, kind: ShipFormat, count: int) -> publish.Artifact:
    # Q8_0 gets more room: a random tiny model is far less sure of its tokens than a real one.
    limits = ParityLimits(chats=count, top1_gguf_q8_0=0.95)
    shipping = publish.Shipping(run, trained.base, trained.change, trained.chats[:count], None, limits)
    (artifact,) = publish.ship_formats(shipping, [kind])
    return artifact


def refused(run: Path, trained: Trained, kind: ShipFormat, count: int) -> TunesmithError:
    """The error, after proving that nothing was published and that what stood there before is as it was."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(TunesmithError) as caught:
        ship(run, trained, kind, count)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    return caught.value


# ------------------------------------------------------------------------------------------- faults of a written folder


def _tensors(folder: Path, edit: Callable[[dict[str, Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def scaled(tensors: dict[str, Tensor]) -> None:
    tensors[LAYER] = tensors[LAYER] * 1.05


def permuted(tensors: dict[str, Tensor]) -> None:
    tensors[EMBEDDING] = tensors[EMBEDDING].roll(1, 0)


def halved(tensors: dict[str, Tensor]) -> None:
    tensors[LAYER] = tensors[LAYER].to(torch.bfloat16)


def all_halved(tensors: dict[str, Tensor]) -> None:
    tensors.update({name: each.to(torch.float16) for name, each in tensors.items()})


def swapped_rows(tensors: dict[str, Tensor]) -> None:
    """Two heads of the queries change places."""
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = torch.cat(list(tensors[name].chunk(2))[::-1]).contiguous()


def other_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text("utf-8").replace("message['role'] + '\n'", "message['role'] + ': '"), "utf-8")


def other_vocabulary(folder: Path) -> None:
    """Two tokens change their numbers."""
    path = folder / "tokenizer.json"
    stated = json.loads(path.read_text("utf-8"))
    vocabulary = stated["model"]["vocab"]
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
    path.write_text(json.dumps(stated, ensure_ascii=False), "utf-8")


def other_dtype_stated(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "dtype": "bfloat16"}), "utf-8")


FOLDER_FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "one layer scaled by 1.05": (lambda folder: _tensors(folder, scaled), "largest_logit_gap"),
    "one layer in another number format": (lambda folder: _tensors(folder, halved), "tensors_of_another_format"),
    "another template": (other_template, "chats_with_other_ids"),
    "a permuted vocabulary": (other_vocabulary, "chats_with_other_ids"),
    "permuted rows of the embedding": (lambda folder: _tensors(folder, permuted), "top1_agreement"),
    "another number format stated": (other_dtype_stated, "tensors_of_another_format"),
    "everything in half precision": (lambda folder: _tensors(folder, all_halved), "tensors_of_another_format"),
    "two heads swapped": (lambda folder: _tensors(folder, swapped_rows), "largest_logit_gap"),
}


@pytest.mark.case("E1")
@pytest.mark.timeout(600)
def test_faults_of_a_merged_folder(
    trained: Trained, tmp_path: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = tally.amount(16, 64)
    artifact = ship(tmp_path, trained, "safetensors", count)
    assert artifact.parity.ok and artifact.parity.chats == count
    write = publish.write_safetensors
    for name, (spoil, check) in list(FOLDER_FAULTS.items())[: tally.amount(4, 8)]:

        def faulty(folder: Path, *rest: object, spoil: Callable[[Path], None] = spoil) -> None:
            write(folder, *rest)  # type: ignore[arg-type]
            spoil(folder)

        with monkeypatch.context() as patch:
            patch.setattr(publish, "write_safetensors", faulty)
            error = refused(tmp_path, trained, "safetensors", count)
        assert error.code == "ship.parity_failed" and check in str(error), f"{name}: {error}"
        tally.count("faults planted in artefacts")
    verify_folder(artifact.path)


# --------------------------------------------------------------------------------------------- faults of a GGUF file


def _scaled_more(tensors: dict[str, Tensor]) -> None:
    tensors[LAYER] = tensors[LAYER] * 4


GGUF_FAULTS: dict[str, tuple[Callable[[dict[str, Tensor]], None] | str, str]] = {
    "one layer scaled by 4": (_scaled_more, "top1_agreement"),
    "another template": ("template", "chats_with_other_ids"),
    "a permuted vocabulary": (permuted, "top1_agreement"),
    "another number format": ("kind", "tensors_of_another_format"),
    "two heads swapped": (swapped_rows, "top1_agreement"),
}
GGUF: list[ShipFormat] = ["gguf-q8_0", "gguf-f16"]


@pytest.mark.case("E1")
@pytest.mark.timeout(900)
def test_faults_of_a_gguf_file(trained: Trained, tmp_path: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    count = tally.amount(8, 64)
    write = publish.write_gguf
    for kind in GGUF[: tally.amount(1, 2)]:
        if tally.full:
            assert ship(tmp_path, trained, kind, count).parity.ok
        faults = dict(list(GGUF_FAULTS.items())[-2:]) if not tally.full else GGUF_FAULTS
        for name, (spoil, check) in faults.items():

            def faulty(
                folder: Path, kind: str, tensors: Mapping[str, Tensor], base: Path, tokenizer: object, template: str,
                spoil: Callable[[dict[str, Tensor]], None] | str = spoil, **facts: str,
            ) -> Path:  # fmt: skip
                changed = dict(tensors)
                if callable(spoil):
                    spoil(changed)
                elif spoil == "template":
                    template = template.replace("message['role'] + '\n'", "message['role'] + ': '")
                else:
                    kind = {"gguf-f16": "gguf-q8_0", "gguf-q8_0": "gguf-f16"}[kind]
                return write(folder, kind, changed, base, tokenizer, template, **facts)  # type: ignore[arg-type]

            with monkeypatch.context() as patch:
                patch.setattr(publish, "write_gguf", faulty)
                error = refused(tmp_path, trained, kind, count)
            assert error.code == "ship.parity_failed" and check in str(error), f"{kind}, {name}: {error}"
            tally.count("faults planted in artefacts")


# ------------------------------------------------------------------------------------------------ faults of the adapter


def _without(tensors: dict[str, Tensor]) -> None:
    tensors.pop(sorted(tensors)[0])


def _one_scaled(tensors: dict[str, Tensor]) -> None:
    name = sorted(tensors)[-1]
    tensors[name] = tensors[name] * 1.05


def _narrower(tensors: dict[str, Tensor]) -> None:
    tensors.update({name: each.to(torch.float16) for name, each in tensors.items()})


def _permuted_pairs(tensors: dict[str, Tensor]) -> None:
    first, other = sorted(name for name in tensors if "q_proj.lora_A" in name)[:2]
    tensors[first], tensors[other] = tensors[other], tensors[first]


@pytest.mark.case("E1")
def test_an_adapter_that_is_not_the_evaluated_one_is_never_published(
    trained: Trained, tmp_path: Path, tally: Tally
) -> None:
    for name, edit in {
        "one layer scaled by 1.05": _one_scaled,
        "a tensor missing": _without,
        "another number format": _narrower,
        "two layers swapped": _permuted_pairs,
    }.items():
        change = tmp_path / name
        shutil.copytree(trained.change, change)
        path = change / "adapter_model.safetensors"
        tensors = load_file(path)
        edit(tensors)
        save_file(tensors, path, metadata={"format": "pt"})
        spoilt = Trained(trained.base, change, trained.chats)
        error = refused(tmp_path / "run", spoilt, "safetensors", 16)
        assert error.code == "core.hash_differs", f"{name}: {error}"
        tally.count("faults planted in artefacts")
    change = tmp_path / "template"
    shutil.copytree(trained.change, change)
    other_template(change)
    error = refused(tmp_path / "run", Trained(trained.base, change, trained.chats), "safetensors", 16)
    assert error.code == "core.hash_differs"
    tally.count("faults planted in artefacts")
