"""Rows of a store that speaks S3: read whole or not at all, refused with the reason, keys nowhere in what is kept."""

from __future__ import annotations

import gzip
import io
import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.collect.fetch import collect
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.messages import LANGUAGES, render
from tunesmith.recipe.places import local_path
from tunesmith.recipe.specs.sources import SourceSpec

MISSING = [name for name in ("s3fs", "moto", "boto3", "flask", "flask_cors") if find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"tunesmith[dev] brings what is missing here: {', '.join(MISSING)}"),
    # the clients of S3 hold on to connections until the process ends, and tell Python's checks of warnings so
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
if not MISSING:
    import s3fs
    from s3_server import KEY, SECRET, Store, breaking_way, store

ROWS = [{"prompt": f"question {number}", "completion": "answer"} for number in range(3)]
LINES = b"".join(b'{"prompt": "question %d", "completion": "answer"}\n' % number for number in range(3))
BIG = b"".join(b'{"prompt": "question %d", "completion": "answer"}\n' % number for number in range(20_000))


def parquet() -> bytes:
    out = io.BytesIO()
    pl.DataFrame(ROWS).write_parquet(out)
    return out.getvalue()


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with store() as running:
        running.put(
            "rows",
            {
                "kinds/a.jsonl": LINES,
                "kinds/b.csv": b"prompt,completion\nq,a\n",
                "kinds/deep/c.parquet": parquet(),
                "kinds/d.jsonl.gz": gzip.compress(LINES),
                "kinds/model.bin": b"no rows",
                "big.jsonl": BIG,
            },
        )
        yield running


@pytest.fixture(autouse=True)
def _ground(server: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    reach(monkeypatch, server.url, KEY, SECRET)


def reach(monkeypatch: pytest.MonkeyPatch, url: str, key: str, secret: str) -> None:
    """The way to the store as a user states it: in the environment."""
    named = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    for name, value in {**named, "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()


def fetched(address: str, folder: Path) -> dict[str, int]:
    """Files by their names and how many rows each gave."""
    source = SourceSpec(path=address)
    collect([source], folder, offline=False)
    ledger = Ledger()
    _, report = read_source(source, "train", folder, Reading("chat", None, 1), ledger)
    ledger.write(folder / "ledger.jsonl")
    return {each.path.removeprefix(address).strip("/"): each.readable for each in report.files}


def refused(address: str, folder: Path) -> TunesmithError:
    """The error, of which nothing was left behind."""
    source = SourceSpec(path=address)
    with pytest.raises(TunesmithError) as caught:
        collect([source], folder, offline=False)
    place = local_path(source, folder)
    assert not place.exists() and not list(place.parent.glob("*"))
    for language in LANGUAGES:
        assert address in render(caught.value, language).cause
    return caught.value


def test_files_of_every_kind(tmp_path: Path) -> None:
    assert fetched("s3://rows/kinds", tmp_path) == {"a.jsonl": 3, "b.csv": 1, "d.jsonl.gz": 3, "deep/c.parquet": 3}


@pytest.mark.parametrize("address", ["s3://rows/nothing", "s3://nobodys/a.jsonl", "s3://rows/kinds/model.bin"])
def test_what_is_not_there(tmp_path: Path, address: str) -> None:
    assert refused(address, tmp_path).code == "data.store_missing"


def test_a_download_that_is_cut_goes_on(tmp_path: Path, server: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with breaking_way(server.url, after=len(BIG) // 2, times=1) as way:
        reach(monkeypatch, way, KEY, SECRET)
        assert list(fetched("s3://rows/big.jsonl", tmp_path).values()) == [20_000]


def test_a_download_that_is_always_cut_leaves_nothing(
    tmp_path: Path, server: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with breaking_way(server.url, after=len(BIG) // 9, times=1000) as way:
        reach(monkeypatch, way, KEY, SECRET)
        error = refused("s3://rows/big.jsonl", tmp_path)
    assert (error.code, error.facts["file"]) == ("data.download_broken", "big.jsonl")


def test_keys_open_the_store_and_stand_nowhere(
    tmp_path: Path, server: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    key, secret = server.lock()
    said = []
    try:
        for wrong in ((KEY, SECRET), (key, SECRET)):
            reach(monkeypatch, server.url, *wrong)
            error = refused("s3://rows/kinds", tmp_path)
            assert error.code == "data.store_refused"
            said.append(repr(error))
        reach(monkeypatch, server.url, key, secret)
        assert sum(fetched("s3://rows/kinds", tmp_path).values()) == 10
    finally:
        server.open()
    said.append(caplog.text)
    said += [each.read_bytes().decode("latin-1") for each in tmp_path.rglob("*") if each.is_file()]
    assert len(said) > 6
    assert not [value for value in (KEY, SECRET, key, secret) if any(value in text for text in said)]
