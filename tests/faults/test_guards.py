"""F6: nothing unsafe is written into the code, nothing reaches outside by itself, and no file that is written is a
pickle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import code_rules
import pytest
from children import python_path
from faults_canaries import AS_DATA, BESIDE_A_MODEL
from faults_pickles import pickles_in
from faults_tally import Tally
from tiny_project import write_tiny_recipe

from tunesmith import lifecycle
from tunesmith.core import process
from tunesmith.models.tiny import tiny_chat_model

pytestmark = pytest.mark.case("F6")

ROOT = Path(__file__).parents[2]
PRIVATE_CACHES = (
    ".cache/huggingface/",
    "__pycache__/",
    ".pytest_cache/",
    "hypothesis/",
    "torchinductor",
    "jieba.cache",
)
"""Caches that a library or the interpreter keeps for itself, in its own form, and that nothing here reads:

__pycache__ (the interpreter's compiled files), the hub client's folder of downloads and locks, torch's compiler cache
where a user switches the compiler on. None of them lies in a run, in an artefact or in $TUNESMITH_HOME.
"""


def test_the_package_keeps_every_rule(tally: Tally) -> None:
    files = code_rules.read_package(ROOT / "src" / "tunesmith")
    tally.count("files scanned", len(files))
    for rule in (code_rules.unsafe_code, code_rules.loads_elsewhere, code_rules.outgoing_connections):
        tally.count("rules of safety")
        assert rule(files) == []


def child(folder: Path, back_ends: str) -> dict[str, object]:
    """The program of `faults_imports` in a bare environment: what the user's shell would have, and no more."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "SYSTEMROOT", "VIRTUAL_ENV")}
    environment = {
        **kept,
        "HOME": str(folder),
        "TUNESMITH_HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "helpers"), str(ROOT / "src")]),
        "OMP_NUM_THREADS": "1",
    }
    program = ROOT / "tests" / "helpers" / "faults_imports.py"
    outcome = subprocess.run(
        [sys.executable, str(program), str(folder), back_ends],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    value = json.loads(outcome.stdout.splitlines()[-1])
    assert isinstance(value, dict)
    return value


@pytest.mark.timeout(330)
def test_loading_everything_reaches_nobody(tmp_path: Path, tally: Tally) -> None:
    """Every file of the package, in full size every installed back-end too, a model made, loaded and asked."""
    found = child(tmp_path, "all" if tally.full else "none")
    modules, back_ends = found["modules"], found["back_ends"]
    assert isinstance(modules, int) and isinstance(back_ends, list)
    tally.count("files loaded", modules)
    tally.count("back-ends loaded", len(back_ends))
    assert found["tried"] == []
    assert modules > 100


def test_the_block_notices(tally: Tally) -> None:
    """The block that proves this is able to fail: a look-up and a connection are refused and remembered."""
    program = """
import socket
from faults_network import no_connections

outside = ("192.0.2.1", 80)
calls = [
    lambda: socket.getaddrinfo("example.org", 80),
    lambda: socket.gethostbyname("example.org"),
    lambda: socket.socket().connect(outside),
    lambda: socket.create_connection(outside),
]
with no_connections() as tried:
    for call in calls:
        try:
            call()
        except OSError:
            pass
print(len(tried))
"""
    outcome = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": python_path()}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    tally.count("connections tried and seen", int(outcome.stdout))
    assert int(outcome.stdout) == 4


SWITCHES = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "USE_HUB_KERNELS": "0",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "VLLM_NO_USAGE_STATS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def test_telemetry_is_off_before_anything_is_imported(monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    for name in SWITCHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(process, "hold_memory", lambda: True)
    process.prepare()
    for name, value in SWITCHES.items():
        tally.count("switches")
        assert os.environ[name] == value


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[list[Path]]:
    """Every file that a whole run leaves behind: the run directory, the base, and the cache."""
    folder = tmp_path_factory.mktemp("whole")
    base = tiny_chat_model(folder / "base", spread=0.1, context=1024, layers=1)
    recipe = write_tiny_recipe(folder, base, rows=(24, 4, 8))
    work = lifecycle.start(recipe, ("stages.0.train.epochs=1", "evaluate.max_new_tokens=2"), folder / "runs", ())
    lifecycle.run_to_release(work)
    yield [path for root in (folder, home) for path in sorted(root.rglob("*")) if path.is_file()]


@pytest.mark.timeout(240)
def test_no_file_that_is_written_is_a_pickle(written: list[Path], tally: Tally) -> None:
    tally.count("files written", len(written))
    assert len(written) > 40
    assert {path.suffix for path in written} >= {".json", ".jsonl", ".parquet", ".safetensors", ".md", ".yaml"}
    found = [name for path in written for name in pickles_in(path)]
    assert found == []
    assert not [path for path in written if any(cache in path.as_posix() for cache in PRIVATE_CACHES)]


def test_a_pickle_would_be_found(tmp_path: Path, tally: Tally) -> None:
    for name, make in {**BESIDE_A_MODEL, **AS_DATA}.items():
        if name.endswith((".yaml", ".py", ".pyc")):
            continue
        path = tmp_path / "planted"
        path.write_bytes(make(tmp_path / "marker"))
        tally.count("pickles planted")
        assert pickles_in(path), name
