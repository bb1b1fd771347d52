"""A corpus on a real Ray cluster of two workers: the same bytes as by threads, and clear words where a machine is odd.

`make test-ray` installs Ray and runs these; a cluster and its workers take half a minute to start and to die.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.data.corpus.on_ray import on_ray

SCRIPT = Path(__file__).parents[2] / "helpers" / "corpus_on_ray.py"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What happened: one cluster for all tests, since to start it takes longer than all of them."""
    if "TUNESMITH_TEST_RAY" not in os.environ:
        pytest.skip("starts a Ray cluster: `make test-ray`")
    pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs it")
    folder = tmp_path_factory.mktemp("ray")
    draw = random.Random(3)
    texts = [" ".join(f"word{draw.randrange(900)}" for _ in range(30)) for _ in range(120)]
    for place in range(0, 120, 6):
        texts[place] += f" mail person{place % 18}@example.org"
        texts[place + 1] = f"<p>{texts[place + 1]}</p>"
    texts += [*texts[10:20], *(f"{each} and more" for each in texts[20:30])]
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in texts), "utf-8")
    (folder / "latin.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "caf\xe9"}\n')
    home = {**os.environ, "HOME": str(folder)}  # where Ray keeps its token
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)], env=home, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_workers_make_the_same_bytes_as_threads(told: dict[str, object]) -> None:
    threads = told["threads"]
    assert isinstance(threads, dict) and sum("part-" in name for name in threads) > 8, "several parts"
    assert told["ray"] == threads


def test_a_build_begun_by_threads_is_ended_by_workers(told: dict[str, object]) -> None:
    assert told["ended"] == dict.fromkeys(["2", "3", "5"], told["threads"])


def test_a_worker_that_dies_has_its_part_done_by_another(told: dict[str, object]) -> None:
    assert told["dies_once"] == ["done", "done"]


def test_a_part_that_kills_every_worker_is_said(told: dict[str, object]) -> None:
    assert told["dies"] == "corpus.worker_died ['reason']"


def test_an_error_of_a_part_is_the_same_error_here(told: dict[str, object]) -> None:
    assert told["broken"] == "data.wrong_encoding ['encoding', 'offset', 'path']"


def test_a_machine_with_other_versions_or_without_the_folder_or_a_file_is_named(told: dict[str, object]) -> None:
    assert told["tunesmith"] == "corpus.node_version ['found', 'node', 'package', 'wanted']"
    assert told["no-such-package"] == told["tunesmith"]
    assert told["folder"] == "corpus.node_folder ['node', 'path']"
    assert told["file"] == "corpus.node_file ['node', 'path']"


def test_without_ray_nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TunesmithError) as caught, on_ray():
        pass
    assert caught.value.code == "corpus.needs_ray"


@pytest.mark.parametrize("address", ["127.0.0.1:9", "127.0.0.1:99999"])
def test_an_address_where_nobody_listens_is_said_at_once(address: str) -> None:
    with pytest.raises(TunesmithError) as caught, on_ray(address):
        pass
    assert caught.value.code == "corpus.no_cluster" and caught.value.facts["address"] == address
