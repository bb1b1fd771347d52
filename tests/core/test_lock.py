"""Locks on files: who has one, who waits, and whether other machines hear of it."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Timer

import pytest

from tunesmith.core import lock
from tunesmith.core.lock import lock_file, locks_stay_here


def test_a_lock_is_one_processs_until_it_lets_go(tmp_path: Path) -> None:
    first = lock_file(tmp_path / "lock", 0)
    assert first is not None and lock_file(tmp_path / "lock", 0.1) is None
    Timer(0.2, os.close, [first]).start()
    second = lock_file(tmp_path / "lock", 5)
    assert second is not None
    os.close(second)


def test_who_waited_for_a_file_that_was_taken_away_locks_the_one_that_is_there_now(tmp_path: Path) -> None:
    first = lock_file(tmp_path / "lock", 0)
    assert first is not None

    def done() -> None:
        (tmp_path / "lock").unlink()
        os.close(first)

    Timer(0.2, done).start()
    second = lock_file(tmp_path / "lock", 5)
    assert second is not None and os.path.samestat(os.fstat(second), (tmp_path / "lock").stat())
    assert lock_file(tmp_path / "lock", 0.1) is None, "else two would hold one name"
    os.close(second)


MOUNTS = """22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 22 0:45 / /data rw,relatime shared:2 - nfs4 server:/data rw,vers=4.2,hard,local_lock=none,addr=10.0.0.1
41 22 0:46 / /data/near\\040by rw,relatime - nfs server:/near rw,vers=3,nolock,local_lock=all
42 22 0:47 / /half rw,relatime - nfs server:/half rw,vers=3,local_lock=posix
43 22 0:48 / /数据 rw,relatime - nfs server:/x rw,vers=3,local_lock=flock
44 43 0:49 / /数据/local rw,relatime - ext4 /dev/vdb rw
"""


@pytest.mark.parametrize(
    ("path", "here"),
    [
        ("/tmp", False),
        ("/data/runs", False),
        ("/data/near by/runs", True),
        ("/half/runs", False),
        ("/数据/runs", True),
        ("/数据/local/runs", False),
    ],
)
def test_mounts_tell_which_locks_other_machines_do_not_hear_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, here: bool
) -> None:
    (tmp_path / "mounts").write_text(MOUNTS, "utf-8")
    monkeypatch.setattr(lock, "_MOUNTS", tmp_path / "mounts")
    assert locks_stay_here(Path(path)) is here
    monkeypatch.setattr(lock, "_MOUNTS", tmp_path / "none")
    assert not locks_stay_here(Path(path))
