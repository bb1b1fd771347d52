"""Files of object stores: fetched whole or not at all, and nothing outside of their folder."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.collect.fetch import collect
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.recipe.places import local_path
from tunesmith.recipe.specs.sources import SourceSpec

LINE = b'{"prompt": "a", "completion": "b"}\n'


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    system.pipe(
        {"/bucket/a.jsonl": LINE, "/bucket/deep/b.jsonl": LINE * 2, "/bucket/model.bin": b"x", "/other.jsonl": LINE}
    )
    yield system
    system.store.clear()


def test_a_folder_and_a_file(tmp_path: Path) -> None:
    for address, files in (
        ("memory://bucket", {"bucket/a.jsonl": 1, "bucket/deep/b.jsonl": 2}),
        ("memory://bucket/deep/b.jsonl", {"bucket/deep/b.jsonl/b.jsonl": 2}),
    ):
        source = SourceSpec(path=address)
        collect([source], tmp_path, offline=False)
        frame, report = read_source(source, "train", tmp_path, Reading("chat", None, 1), Ledger())
        found = {file.path.removeprefix("memory://"): file.rows for file in report.files}
        assert found == files and len(frame) == sum(files.values())
        assert any(note.code == "data.collected_files" for note in report.notes)


def test_file_addresses_are_files_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINE)
    source = SourceSpec(path=f"file://{tmp_path}/a.jsonl")
    assert collect([source], tmp_path, offline=True) == []
    assert len(read_source(source, "train", tmp_path, Reading("chat", None, 1), Ledger())[0]) == 1


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("memory://nowhere", "data.store_missing"),
        ("memory://bucket/model.bin", "data.store_missing"),
        ("ftp://host/a.jsonl", "data.unknown_store"),
        ("https://host/a.jsonl", "data.unknown_store"),
        ("oss://bucket/a.jsonl", "data.unknown_store"),
        ("hdfs://host/a.jsonl", "data.unknown_store"),
        ("az://box/a.jsonl?sv=2024&sig=password", "data.secret_in_address"),
        ("simplecache::memory://bucket", "data.unknown_store"),
        ("memory://bucket::file:///etc", "data.unknown_store"),
        ("s3://key:word@bucket/a", "data.secret_in_address"),
        ("hf://models/a/b", "data.fetch_failed"),
        ("hf://datasets/../../x", "data.fetch_failed"),
    ],
)
def test_what_cannot_be_fetched_leaves_nothing(tmp_path: Path, address: str, code: str) -> None:
    source = SourceSpec(path=address)
    with pytest.raises(TunesmithError) as caught:
        collect([source], tmp_path, offline=False)
    assert caught.value.code == code and "word" not in str(caught.value)
    assert not local_path(source, tmp_path).exists()


def test_names_that_leave_the_folder_are_refused(tmp_path: Path, store: fsspec.AbstractFileSystem) -> None:
    store.store["/bucket/../../evil.jsonl"] = store.store["/bucket/a.jsonl"]
    source = SourceSpec(path="memory://bucket")
    with pytest.raises(TunesmithError, match=r"data\.fetch_failed"):
        collect([source], tmp_path, offline=False)
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("path", ["memory://bucket", "s3://bucket/a", "hf://datasets/a/b", "modelscope://a/b"])
def test_offline_nothing_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    source = SourceSpec(path=path)
    with pytest.raises(TunesmithError, match=r"data\.offline_source"):
        collect([source], tmp_path, offline=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TunesmithError, match=r"data\.offline_source"):
        collect([source], tmp_path, offline=False)


@pytest.mark.parametrize(
    ("scheme", "module", "extra"),
    [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gs"), ("az", "adlfs", "az"), ("abfs", "adlfs", "az")],
)
def test_a_missing_library_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)  # loaded before
    with pytest.raises(TunesmithError) as caught:
        collect([SourceSpec(path=f"{scheme}://bucket/a")], tmp_path, offline=False)
    facts = caught.value.facts
    assert (caught.value.code, facts["module"], facts["extra"]) == ("data.extra_missing", module, extra)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("set/Rows.jsonl", "set/rows.jsonl"),
        ("set/A/b.jsonl", "set/a/B.jsonl"),
        ("set/\u00e9.jsonl", "set/e\u0301.jsonl"),
    ],
)
def test_keys_that_are_one_name_elsewhere_are_refused(
    tmp_path: Path, store: fsspec.AbstractFileSystem, one: str, other: str
) -> None:
    """Where names that differ in case alone are one file, the second would silently take the place of the first."""
    store.pipe({f"/alike/{one}": LINE, f"/alike/{other}": LINE})
    folded = {unicodedata.normalize("NFC", each).casefold() for each in (one, other)}
    assert len(folded) == 1, "as such a file system takes them"
    source = SourceSpec(path="memory://alike/set")
    with pytest.raises(TunesmithError) as caught:
        collect([source], tmp_path, offline=False)
    assert caught.value.code == "data.names_alike" and not local_path(source, tmp_path).exists()
    single = SourceSpec(path=f"memory://alike/{one}")
    assert len(list(collect([single], tmp_path, offline=False)[0].rglob("*.jsonl"))) == 1
