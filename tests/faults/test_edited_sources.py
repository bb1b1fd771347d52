"""An edit that keeps size and time is seen: everything is known by its content."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from faults_tally import Tally
from tiny_project import write_tiny_recipe

from tunesmith import lifecycle
from tunesmith.core.errors import TunesmithError
from tunesmith.models.tiny import tiny_chat_model

Edit = Callable[[Path], None]


def swap(path: Path, old: bytes, new: bytes) -> None:
    """Other bytes of the same length, and the clock set back."""
    before, content = path.stat(), path.read_bytes()
    assert len(old) == len(new) and old in content
    path.write_bytes(content.replace(old, new, 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_tiny_recipe(tmp_path / "project", tiny_chat_model(tmp_path / "base"), rows=(12, 4, 4))


def texts(work: lifecycle.Work) -> str:
    return " ".join(message.content for each in work.examples("train") for message in each.messages)


@pytest.mark.case("D5")
@pytest.mark.parametrize("as_folder", [False, True])
def test_edited_rows_are_another_run(recipe: Path, tmp_path: Path, as_folder: bool, tally: Tally) -> None:
    source = recipe.parent / "tickets" / "train.jsonl"
    if as_folder:
        (recipe.parent / "tickets" / "train").mkdir()
        source = source.rename(source.with_suffix("") / "part.jsonl")
        recipe.write_text(recipe.read_text("utf-8").replace("tickets/train.jsonl", "tickets/train"), "utf-8")
    first = lifecycle.start(recipe, [], tmp_path / "runs", ())
    lifecycle.prepare_data(first)
    word = max((each for each in texts(first).split() if each.isalpha() and each.isascii()), key=len)
    other = ("z" * len(word)).encode()
    swap(source, word.encode(), other)
    tally.count("files edited")
    second = lifecycle.start(recipe, [], tmp_path / "runs", ())
    lifecycle.prepare_data(second)
    assert second.path != first.path and other.decode() in texts(second)
    assert other.decode() not in texts(first), "the earlier run is as it was"


@pytest.mark.case("D5")
def test_a_base_edited_under_a_run_is_refused(recipe: Path, tmp_path: Path, tally: Tally) -> None:
    work = lifecycle.start(recipe, [], tmp_path / "runs", ())
    weights = tmp_path / "base" / "model.safetensors"
    (tmp_path / "base" / "manifest.json").unlink()  # as in a folder that came from elsewhere
    work.base()
    tail = weights.read_bytes()[-8:]
    swap(weights, tail, bytes(each ^ 1 for each in tail))
    tally.count("files edited")
    with pytest.raises(TunesmithError) as error:
        work.base()
    assert error.value.code == "lifecycle.base_changed"


@pytest.mark.case("D5")
def test_an_edited_lock_or_split_is_refused(recipe: Path, tmp_path: Path, tally: Tally) -> None:
    work = lifecycle.start(recipe, [], tmp_path / "runs", ())
    lifecycle.prepare_data(work)
    rows = work.path / "data" / "train.parquet"
    swap(rows, rows.read_bytes()[40:48], b"\0" * 8)
    with pytest.raises(TunesmithError, match="hash_differs"):
        work.examples("train")
    swap(work.path / "recipe.lock.yaml", b"batch_size: 8", b"batch_size: 9")
    with pytest.raises(TunesmithError, match="hash_differs"):
        lifecycle.reopen(work.path, ())
    tally.count("files edited", 2)
