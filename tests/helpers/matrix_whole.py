"""A point of the matrix that goes the whole way: rows, plan, baseline, training, evaluation, artefact, card, proof."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from class_rows import several_rows, text_rows, token_rows, write_rows
from matrix_axes import Point
from matrix_ground import SOURCES, Ground

from tunesmith import lifecycle, proof
from tunesmith.core.events import Event
from tunesmith.core.files import verify_folder
from tunesmith.data.samples.tickets import write_tickets

WHOLE_ROWS = {"train": 12, "validation": 6, "test": 8}
_MAKERS = {"text_class": text_rows, "multi_label": several_rows, "token_class": token_rows}


def check_whole(point: Point, bases: Path, folder: Path) -> None:
    """Assert that a run of the point ends with an artefact in every format and with a certificate of equal bytes."""
    ground = Ground(point, bases)
    kind, tasks = ground.recipe.data.rows, ground.recipe.data.tasks
    _write_rows(folder, kind, tasks)
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(_stated(ground, kind)), "utf-8")
    seen: list[Event] = []
    work = lifecycle.start(path, (), folder / "runs", (seen.append,))
    lifecycle.run_to_release(work)
    assert [event.values["unchanged"] for event in seen if event.kind == "frozen"] == [True]
    published = {each.name for each in (work.path / "ship").iterdir()}
    endings = [f"-{name}" for name in tasks or ()] or [""]
    assert published == {f"{each}{ending}" for each in work.recipe.formats for ending in endings}
    for each in published:
        verify_folder(work.path / "ship" / each)
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal


def _stated(ground: Ground, kind: str) -> dict[str, object]:
    """The point's recipe with what a whole run needs besides."""
    stated = ground.stated
    named = [{"name": name} for name in ground.recipe.data.tasks or ()] or [{}]
    splits = {
        f"{split}_sources": [{"path": f"{each.get('name', '')}{split}.jsonl", **each} for each in named]
        for split in ("validation", "test")
    }
    stated["data"] = {**stated["data"], **splits}  # type: ignore[dict-item]
    if kind == "chat":
        stated["evaluate"] = {"metrics": ["exact_match", "rouge_l"], "max_new_tokens": 8, "examples": 1}
        formats = ["safetensors"] if ground.recipe.stages[0].adapt.mergeable else ["adapter"]
        stated["ship"] = {"formats": formats, "parity": {"chats": 8}}
        stated["stages"][0]["train"]["max_length"] = 512  # type: ignore[index]
    return stated


def _write_rows(folder: Path, kind: str, tasks: Mapping[str, str] | None) -> None:
    """Rows of every split and of an old task; those to train on lie in two files."""
    for seed, (name, rows) in enumerate((tasks or {}).items()):
        write_rows(folder / f"{name}.jsonl", _MAKERS[rows](24, "train", seed=seed + 1))
        for split in ("validation", "test"):
            write_rows(folder / f"{name}{split}.jsonl", _MAKERS[rows](12, split))  # type: ignore[arg-type]
    if tasks:
        return
    if kind == "chat":
        for seed, name in enumerate((*SOURCES, "old")):
            write_tickets(folder / name, seed=seed + 1, **WHOLE_ROWS)
            shutil.copyfile(folder / name / "train.jsonl", folder / f"{name}.jsonl")
        for split in ("validation", "test"):
            shutil.copyfile(folder / "old" / f"{split}.jsonl", folder / f"{split}.jsonl")
        return
    for seed, name in enumerate((*SOURCES, "old")):
        write_rows(folder / f"{name}.jsonl", _MAKERS[kind](24, "train", seed=seed + 1))
    for split in ("validation", "test"):
        write_rows(folder / f"{split}.jsonl", _MAKERS[kind](12, split))  # type: ignore[arg-type]
