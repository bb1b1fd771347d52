"""Seeds are functions of their place; a process is prepared without taking over what the user set."""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest

from tunesmith.core import process
from tunesmith.core.seed import derive_seed


def test_a_seed_is_the_same_everywhere_and_other_elsewhere() -> None:
    expected = int.from_bytes(hashlib.sha256(b"42:dropout:3:0:1").digest()[:8], "big") >> 1
    assert derive_seed(42, "dropout", 3, 0, 1) == expected
    seeds = {
        derive_seed(run, purpose, step, rank)
        for run in range(4)
        for purpose in ("dropout", "order")
        for step in range(50)
        for rank in range(4)
    }
    assert len(seeds) == 4 * 2 * 50 * 4 and all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, "a", 11) != derive_seed(1, "a", 1, 1)


def test_the_users_own_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "hold_memory", lambda: True)
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "3", "MKL_DYNAMIC": "TRUE"})
    process.prepare()
    assert os.environ["OMP_NUM_THREADS"] == "3" and os.environ["MKL_DYNAMIC"] == "TRUE"
    assert os.environ["OMP_DYNAMIC"] == "FALSE" and os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_the_machine_is_measured() -> None:
    assert 1 <= process.available_cores() <= (os.cpu_count() or 1)
    before = process.peak_memory_bytes()
    block = bytearray(64 << 20)
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
    assert process.peak_memory_bytes() >= before > 1 << 20


def test_living_and_dead_processes() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    child.wait()
    assert not process.is_alive(child.pid) and not process.is_alive(2**70)
    assert process.is_alive(os.getpid()) and process.is_alive(1)


def test_preparing_needs_nothing_heavy() -> None:
    code = "import sys, tunesmith.core.process as p; p.prepare(); print(p.hold_memory(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(sys.platform.startswith("linux")), "False"]


def test_a_library_that_would_fetch_a_kernel_finds_no_way_to(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = ModuleType("kernels")
    monkeypatch.setitem(sys.modules, "kernels", theirs)
    process._no_code_from_a_hub()
    assert sys.modules["kernels"] is theirs, "what somebody has imported himself stays his"
    monkeypatch.delitem(sys.modules, "kernels")
    process._no_code_from_a_hub()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("kernels")
    assert find_spec("kernels") is None
    assert not logging.getLogger("bitsandbytes.backends.cpu.ops").isEnabledFor(logging.WARNING)
