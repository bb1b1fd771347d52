"""Free memory is what the tightest limit leaves, and the heap's books tell what is idle in this process."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tunesmith.core import memory

MIB = 2**20


def test_free_memory_is_at_most_what_the_system_has() -> None:
    assert 0 < memory.free_memory_bytes() <= psutil.virtual_memory().total


def test_a_limit_of_the_address_space_counts() -> None:
    program = (
        "import resource, psutil\n"
        "from tunesmith.core.memory import free_memory_bytes\n"
        "size = psutil.Process().memory_info().vms + 300 * 2**20\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))\n"
        "print(free_memory_bytes())\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 250 * MIB < int(found.stdout) <= 300 * MIB


def second_kind(folder: Path, limit: str, used: int, cache: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(limit + "\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\nactive_file 7\n")


def test_the_tightest_group_up_to_the_root_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text("0::/jobs/mine\n")
    second_kind(tmp_path, "max", 1, 0)
    second_kind(tmp_path / "jobs", str(100 * MIB), 70 * MIB, 20 * MIB)
    second_kind(tmp_path / "jobs" / "mine", str(900 * MIB), 0, 0)
    assert memory.free_memory_bytes() == 50 * MIB, "file cache that can go is no use of memory"
    (tmp_path / "jobs" / "memory.current").write_text(f"{200 * MIB}\n")
    assert memory.free_memory_bytes() == 0
    (tmp_path / "jobs" / "memory.max").write_text("garbage")
    assert memory.free_memory_bytes() > 50 * MIB, "a file that says nothing limits nothing"


def test_groups_of_the_first_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text("7:blkio:/other\n4:memory:/job\n0::/\n")
    folder = tmp_path / "memory" / "job"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(f"{64 * MIB}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{60 * MIB}\n")
    (folder / "memory.stat").write_text(f"total_inactive_file {6 * MIB}\n")
    assert memory.free_memory_bytes() == 10 * MIB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads glibc's books")
def test_the_heap_knows_what_is_used_and_what_is_idle() -> None:
    before = memory.heap()
    assert before is not None
    block = bytearray(200 * MIB)
    during = memory.heap()
    assert during is not None and 190 * MIB < during.in_use - before.in_use < 210 * MIB
    del block
    after = memory.heap()
    assert after is not None and after.in_use - before.in_use < 10 * MIB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_what_is_idle_is_given_back() -> None:
    program = (
        "import psutil\n"
        "from tunesmith.core.process import hold_memory\n"
        "from tunesmith.core.memory import give_back\n"
        "assert hold_memory()\n"
        "blocks = [bytearray(b'x' * 2**20) for _ in range(200)]\n"
        "last = bytearray(100)\n"
        "del blocks\n"
        "before = psutil.Process().memory_info().rss\n"
        "assert give_back()\n"
        "print(before - psutil.Process().memory_info().rss)\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(found.stdout) > 150 * MIB


def test_the_limit_of_this_process_is_none() -> None:
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY, "else the tests above say nothing"
