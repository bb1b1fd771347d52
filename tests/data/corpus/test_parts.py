"""Parts of a half-built corpus: of one plan and one piece, as they were written, or not taken."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import sha256_file, verify_folder
from tunesmith.data.corpus import build as builder
from tunesmith.data.corpus import finish, shards
from tunesmith.data.corpus.build import build_corpus
from tunesmith.data.corpus.check import prove
from tunesmith.data.corpus.executors import InThreads
from tunesmith.data.corpus.part import is_part
from tunesmith.recipe.specs.data import DataSpec

PIECE = 2000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = random.Random(3)
    texts = [" ".join(f"Word{draw.randrange(900)}" for _ in range(20)) for _ in range(60)]
    texts = [f"{each} mail person{place % 18}@example.org" for place, each in enumerate(texts)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in texts), "utf-8")
    return tmp_path


def build(folder: Path, out: str, **clean: object) -> None:
    settings = {"near_duplicates": 0.7, "pii": "mask", **clean}
    spec = DataSpec.model_validate({"rows": "text", "sources": [{"path": "rows.jsonl"}], "clean": settings})
    build_corpus(spec, folder, folder / out, InThreads(2), piece_bytes=PIECE)


def files_of(out: Path) -> dict[str, str]:
    return {str(path.relative_to(out)): sha256_file(path) for path in sorted(out.rglob("*")) if path.is_file()}


def before(monkeypatch: pytest.MonkeyPatch, step: str, does: Callable[[Path], None], folder: Path) -> None:
    """Let something happen to the half-built corpus before a step of the pass."""
    original = getattr(builder, step)

    def stepped(*given: object) -> object:
        monkeypatch.setattr(builder, step, original)
        does(folder / "out.building")
        return original(*given)

    monkeypatch.setattr(builder, step, stepped)


def stop(_: Path) -> None:
    raise KeyboardInterrupt


def test_a_worker_that_outlived_an_older_build_slips_nothing_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes its part when the folder was already cleared for another recipe."""
    build(folder, "whole", pii=None)
    before(monkeypatch, "decide", stop, folder)
    with pytest.raises(KeyboardInterrupt):
        build(folder, "out")
    shutil.copytree(folder / "out.building", folder / "late")

    def late(building: Path) -> None:
        for part in (folder / "late").glob("*part-*"):
            shutil.copytree(part, building / part.name)

    before(monkeypatch, "_cut", late, folder)
    build(folder, "out", pii=None)
    assert files_of(folder / "out") == files_of(folder / "whole")


def test_a_part_under_another_name_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before(monkeypatch, "decide", stop, folder)
    with pytest.raises(KeyboardInterrupt):
        build(folder, "out")
    first, second = sorted(path for path in (folder / "out.building").glob("part-*") if "masked" not in path.name)[:2]
    assert is_part(first) and is_part(second) and first.name.split("-")[2] != second.name.split("-")[2]
    shutil.rmtree(first)
    second.rename(first)
    verify_folder(first)
    assert not is_part(first)


@pytest.mark.parametrize("name", ["rows.arrow", "fates.arrow", "hits.arrow", "keys.u64", "signatures.u32", "sizes.i64"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_flipped_bit_in_a_part_is_found_before_anything_is_published(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, masked: bool
) -> None:
    build(folder, "whole")

    def flip(building: Path) -> None:
        part = next(path for path in sorted(building.glob("part-*")) if path.name.endswith("masked") is masked)
        path = part / (name if not masked or (part / name).exists() else "places.i64")
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)

    before(monkeypatch, "write_corpus", flip, folder)
    with pytest.raises(TunesmithError) as caught:
        build(folder, "out")
    assert caught.value.code == "corpus.part_damaged" and not (folder / "out").exists()
    build(folder, "out")
    assert files_of(folder / "out") == files_of(folder / "whole")


def test_masked_rows_that_are_not_to_be_seen_are_missed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not taken for rows that hold nothing to be masked."""

    def hide(building: Path) -> None:
        shutil.rmtree(next(building.glob("*-masked")))

    before(monkeypatch, "write_corpus", hide, folder)
    with pytest.raises(TunesmithError) as caught:
        build(folder, "out")
    assert caught.value.code == "corpus.part_damaged" and not (folder / "out").exists()


def test_a_shard_that_changed_since_it_was_written_is_told_when_it_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest states what the writer wrote, not what lies there when the corpus is published."""
    write_card = finish.write_card

    def damaged(aside: Path, *given: object) -> None:
        shard = next((aside / "train").glob("*.parquet"))
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 4
        shard.write_bytes(content)
        write_card(aside, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(finish, "write_card", damaged)
    build(folder, "out")
    with pytest.raises(TunesmithError) as caught:
        prove(folder / "out")
    assert caught.value.code == "core.hash_differs"


def test_a_shard_that_is_lost_is_not_published(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_card = finish.write_card

    def lose(aside: Path, *given: object) -> None:
        next((aside / "train").glob("*.parquet")).unlink()
        write_card(aside, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(finish, "write_card", lose)
    with pytest.raises(TunesmithError) as caught:
        build(folder, "out")
    assert caught.value.code == "core.missing_file" and not (folder / "out").exists()


def test_a_shard_is_whole_when_it_has_its_name_and_is_made_nowhere_near(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was taken for dead may write one once more: into no file that a reader has, and nothing beside."""
    seen: list[tuple[Path, Path | None]] = []
    write_atomic = shards.write_atomic

    def looked_at(path: Path, content: memoryview, *, room: Path) -> str:
        assert not path.exists()
        old = path.parent / f"{path.name} of a reader"
        old.write_bytes(b"old")
        old.rename(path)
        with path.open("rb") as reader:
            digest = write_atomic(path, content, room=room)
            assert reader.read() == b"old", "another file has the name now"
        seen.append((path, room))
        assert digest == sha256_file(path)
        return digest

    monkeypatch.setattr(shards, "write_atomic", looked_at)
    build(folder, "out")
    assert seen and all(room == folder / "out.building" for _, room in seen)
    verify_folder(folder / "out")
