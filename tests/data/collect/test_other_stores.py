"""Rows of Azure's and Google's stores, from their emulators, which `make test-stores` installs."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.data.collect.fetch import collect
from tunesmith.recipe.specs.sources import SourceSpec

AZURITE, GOOGLE = "TUNESMITH_AZURITE", "TUNESMITH_GCS_EMULATOR"
FILES = {
    name: b'{"prompt": "q", "completion": "a"}\n' for name in ("kinds/a.jsonl", "kinds/deep/b.jsonl", "kinds/x.bin")
}
# The account of every Azurite, which its documentation prints.
ACCOUNT, KEY = (
    "devstoreaccount1",
    ("Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="),
)
pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries that are here for these tests alone


def emulator(variable: str) -> str:
    """The program that the variable names."""
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set: `make test-stores` installs the emulator and runs this")
    return os.environ[variable]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, folder: Path) -> Iterator[None]:
    """The program, from when it listens on."""
    with (folder / "emulator.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until = time.monotonic() + 60
            while time.monotonic() < until and process.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                except OSError:
                    time.sleep(0.1)
                else:
                    break
            yield
        finally:
            process.terminate()


@pytest.fixture(autouse=True)
def _ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")


def names(address: str, folder: Path) -> list[str]:
    """The files that were fetched."""
    (place,) = collect([SourceSpec(path=address)], folder, offline=False)
    found = sorted(each.relative_to(place).as_posix() for each in place.rglob("*") if each.is_file())
    return [name for name in found if name != "manifest.json"]


def code(address: str, folder: Path) -> str:
    """Why nothing was fetched."""
    with pytest.raises(TunesmithError) as caught:
        collect([SourceSpec(path=address)], folder, offline=False)
    return caught.value.code


def test_azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, port = emulator(AZURITE), free_port()
    place = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(tmp_path / "data")]
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"{place}AccountKey={KEY};")
    with running([program, *options, "--silent", "--skipApiVersionCheck", "--disableTelemetry"], port, tmp_path):
        system = fsspec.filesystem("az", connection_string=f"{place}AccountKey={KEY};")
        system.mkdir("rows")
        for name, content in FILES.items():
            system.pipe(f"rows/{name}", content)
        assert names("az://rows/kinds", tmp_path) == ["a.jsonl", "deep/b.jsonl"]
        assert names("abfs://rows/kinds/a.jsonl", tmp_path) == ["a.jsonl"]
        assert code("az://rows/nothing", tmp_path) == code("az://nobodys/a.jsonl", tmp_path) == "data.store_missing"
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"{place}AccountKey={KEY[20:40]}{KEY[20:]};")
        type(system).clear_instance_cache()
        assert code("az://rows/kinds/deep", tmp_path) == "data.store_refused"


def test_google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, port = emulator(GOOGLE), free_port()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks over gRPC, which the emulator has not
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})  # else it looks for the machine's own account
    options = ["start", "--host=127.0.0.1", f"--port={port}", "--in-memory", "--default-bucket=rows"]
    with running([program, *options], port, tmp_path):
        system = fsspec.filesystem("gs", token="anon")
        for name, content in FILES.items():
            system.pipe(f"rows/{name}", content)
        assert names("gs://rows/kinds", tmp_path) == ["a.jsonl", "deep/b.jsonl"]
        assert names("gs://rows/kinds/a.jsonl", tmp_path) == ["a.jsonl"]
        assert code("gs://rows/nothing", tmp_path) == code("gs://nobodys/a.jsonl", tmp_path) == "data.store_missing"
