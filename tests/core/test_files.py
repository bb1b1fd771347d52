"""Durable files: whole or not at all, under a full disk, refusals and a kill between any two steps."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import pytest

from tunesmith.core import files
from tunesmith.core.errors import TunesmithError
from tunesmith.core.exchange import exchange
from tunesmith.core.files import (
    ASIDE,
    disk_errors,
    new_folder,
    read_json,
    remove_folder,
    remove_rubbish,
    sha256_file,
    verify_file,
    verify_folder,
    write_atomic,
    write_json,
)
from tunesmith.core.writers import this_process


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def code_of(error: pytest.ExceptionInfo[TunesmithError]) -> str:
    return error.value.code


# ------------------------------------------------------------------------------------------- single files


def test_written_files_are_whole_and_their_hash_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "文件.txt"
    assert write_atomic(path, "早上好\n") == hashlib.sha256("早上好\n".encode()).hexdigest() == sha256_file(path)
    write_atomic(path, b"")
    assert path.read_bytes() == b"" and names(path.parent) == ["文件.txt"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "core.disk_full"),
        (errno.EDQUOT, "core.disk_full"),
        (errno.EACCES, "core.not_writable"),
        (errno.EROFS, "core.not_writable"),
        (errno.EIO, "core.disk_fault"),
    ],
)
def test_refusals_keep_the_old_content_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(TunesmithError) as error:
        write_atomic(path, "new")
    assert code_of(error) == code and path.read_text() == "old" and names(tmp_path) == ["file"]


def test_ctrl_c_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", "new")
    assert names(tmp_path) == []


def test_a_full_device_is_a_full_disk() -> None:
    if not Path("/dev/full").is_char_device():
        pytest.skip("needs /dev/full")
    with pytest.raises(TunesmithError) as error, disk_errors(Path("/dev/full")), Path("/dev/full").open("wb") as stream:
        stream.write(b"x" * 100_000)
    assert code_of(error) == "core.disk_full" and isinstance(error.value.facts["free_mb"], int)


def test_what_libraries_say_of_the_system_is_understood_too(tmp_path: Path) -> None:
    for words, code in {
        "Error while serializing: I/O error: No space left on device (os error 28)": "core.disk_full",
        "Permission denied (os error 13)": "core.not_writable",
    }.items():
        with pytest.raises(TunesmithError) as error, disk_errors(tmp_path):
            raise RuntimeError(words)
        assert code_of(error) == code
    with pytest.raises(TunesmithError) as error, disk_errors(tmp_path):
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")])
    assert code_of(error) == "core.disk_full", "a copied folder has no number of its own"
    with pytest.raises(RuntimeError, match="shapes differ"), disk_errors(tmp_path):
        raise RuntimeError("shapes differ")
    with pytest.raises(TunesmithError) as error, disk_errors(tmp_path):
        raise TunesmithError("data.unreadable", path="x", reason="No space left on device (os error 28)")
    assert code_of(error) == "data.unreadable", "an error that has a code keeps it"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(TunesmithError) as error:
            write_atomic(tmp_path / "file", "x")
    finally:
        tmp_path.chmod(0o700)
    assert code_of(error) == "core.not_writable"


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "x")
    with pytest.raises(TunesmithError) as error:
        write_atomic(tmp_path / "file" / "below", "x")
    assert code_of(error) == "core.disk_fault"


def test_json_is_read_back_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"b": "好", "a": [1, None]})
    assert read_json(path) == {"a": [1, None], "b": "好"}
    for content in (b"[1]", b"{", b"\xff", b""):
        path.write_bytes(content)
        with pytest.raises(TunesmithError) as error:
            read_json(path)
        assert code_of(error) == "core.broken_json"
    with pytest.raises(TunesmithError) as error:
        read_json(tmp_path / "none.json")
    assert code_of(error) == "core.missing_file"
    with pytest.raises(TunesmithError) as error:
        read_json(tmp_path)
    assert code_of(error) == "core.broken_json"


# ------------------------------------------------------------------------------------------------ folders


def make(path: Path, content: str) -> None:
    with new_folder(path, kind="test") as aside:
        assert not path.exists() or (path / "a").read_text() != content
        (aside / "sub").mkdir()
        (aside / "a").write_text(content)
        (aside / "sub" / "b").write_text(content * 2)


def test_a_folder_appears_with_its_manifest(tmp_path: Path) -> None:
    make(tmp_path / "best", "one")
    manifest = verify_folder(tmp_path / "best")
    assert manifest["kind"] == "test"
    assert manifest["files"] == {
        "a": hashlib.sha256(b"one").hexdigest(),
        "sub/b": hashlib.sha256(b"oneone").hexdigest(),
    }
    make(tmp_path / "best", "two")
    verify_folder(tmp_path / "best")
    assert (tmp_path / "best" / "a").read_text() == "two" and names(tmp_path) == ["best"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_a_block_that_raises_changes_nothing(tmp_path: Path, error: BaseException) -> None:
    make(tmp_path / "best", "one")
    with pytest.raises((type(error), TunesmithError)), new_folder(tmp_path / "best") as aside:
        (aside / "a").write_text("half")
        raise error
    assert names(tmp_path) == ["best"] and (tmp_path / "best" / "a").read_text() == "one"
    verify_folder(tmp_path / "best")


def test_a_second_rename_that_fails_puts_the_older_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "best", "one")
    rename, calls = Path.rename, []

    def fail_second(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.EIO, "input/output error")
        return rename(self, target)

    monkeypatch.setattr(files, "exchange", lambda *_: False)  # a file system that cannot swap two names
    monkeypatch.setattr(Path, "rename", fail_second)
    with pytest.raises(TunesmithError) as error:
        make(tmp_path / "best", "two")
    assert code_of(error) == "core.disk_fault"
    assert names(tmp_path) == ["best"] and (tmp_path / "best" / "a").read_text() == "one"


def test_two_names_are_swapped_in_one_step_or_left(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "file", "one")
    write_atomic(tmp_path / "b", "two")
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("needs a file system that swaps two names in one step")
    assert (tmp_path / "a").read_text() == "two" and (tmp_path / "b" / "file").read_text() == "one"
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "none")


def test_more_than_the_disk_has_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    too_much = shutil.disk_usage(tmp_path).total * 2
    with pytest.raises(TunesmithError) as error, new_folder(tmp_path / "best", too_much):
        pytest.fail("begun")
    assert code_of(error) == "core.too_little_space" and names(tmp_path) == []
    assert int(error.value.facts["needed_mb"]) > int(error.value.facts["free_mb"])


DAMAGES = {
    "core.hash_differs": lambda folder: (folder / "a").write_text("onf"),
    "core.missing_file": lambda folder: (folder / "sub" / "b").unlink(),
    "core.unknown_file": lambda folder: (folder / "sub" / "c").write_text(""),
    "core.broken_json": lambda folder: (folder / "manifest.json").write_text('{"files": 3}'),
}


@pytest.mark.parametrize("code", DAMAGES)
def test_every_damage_is_noticed(tmp_path: Path, code: str) -> None:
    make(tmp_path / "best", "one")
    DAMAGES[code](tmp_path / "best")
    with pytest.raises(TunesmithError) as error:
        verify_folder(tmp_path / "best")
    assert code_of(error) == code


def test_a_manifest_that_is_gone(tmp_path: Path) -> None:
    make(tmp_path / "best", "one")
    (tmp_path / "best" / "manifest.json").unlink()
    with pytest.raises(TunesmithError) as error:
        verify_folder(tmp_path / "best")
    assert code_of(error) == "core.missing_file"


# ------------------------------------------------------------------------------------- killed at any step

KILLED_WRITER = """
import os, sys
from pathlib import Path
from tunesmith.core.files import new_folder

countdown = int(sys.argv[2])

def counted(name, function):
    def call(*arguments, **names):
        global countdown
        if not inside:
            return function(*arguments, **names)
        if countdown == 0:
            os._exit(9)
        countdown -= 1
        return function(*arguments, **names)
    return call

inside = False
os.fsync = counted("fsync", os.fsync)
os.rename = counted("rename", os.rename)
os.replace = counted("replace", os.replace)
os.rmdir = counted("rmdir", os.rmdir)
os.unlink = counted("unlink", os.unlink)
os.mkdir = counted("mkdir", os.mkdir)
inside = True
with new_folder(Path(sys.argv[1])) as aside:
    (aside / "a").write_text("two")
    (aside / "sub").mkdir()
    (aside / "sub" / "b").write_text("twotwo")
print("finished")
"""


def test_killed_between_any_two_steps_one_whole_state_is_there(tmp_path: Path) -> None:
    seen: set[str] = set()
    for step in range(100):
        folder = tmp_path / str(step)
        make(folder / "best", "one")
        done = subprocess.run(
            [
                sys.executable,
                "-S",
                "-c",
                f"import sys; sys.path[:0] = {sys.path!r}\n{KILLED_WRITER}",
                folder / "best",
                str(step),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 9), done.stderr
        remove_rubbish(folder)
        assert names(folder) == ["best"], f"killed at step {step}"
        verify_folder(folder / "best")
        seen.add((folder / "best" / "a").read_text())
        if done.returncode == 0:
            break
    assert seen == {"one", "two"} and step > 8, "the countdown ran through the writing"


HERE = this_process().split("-")[0]
DEAD = f"{ASIDE}{HERE}-4194304999-17"
ELSEWHERE = f"{ASIDE}0123456789ab-{os.getpid()}-17"


def test_the_moment_between_the_two_renames(tmp_path: Path) -> None:
    """The state that a kill there leaves, written by hand with a number no process has."""
    make(tmp_path / "best", "one")
    (tmp_path / "best").rename(tmp_path / f"{DEAD}-older-best")
    make(tmp_path / f"{DEAD}-ffffffffffff", "two")
    remove_rubbish(tmp_path)
    assert names(tmp_path) == ["best"] and (tmp_path / "best" / "a").read_text() == "one"
    verify_folder(tmp_path / "best")


def test_an_older_folder_does_not_displace_the_newer(tmp_path: Path) -> None:
    make(tmp_path / "best", "two")
    make(tmp_path / f"{DEAD}-older-best", "one")
    remove_rubbish(tmp_path)
    assert names(tmp_path) == ["best"] and (tmp_path / "best" / "a").read_text() == "two"


def test_an_older_folder_comes_back_even_when_its_writers_number_lives_again(tmp_path: Path) -> None:
    make(tmp_path / f"{ASIDE}{HERE}-{os.getppid()}-17-older-best", "one")
    make(tmp_path / f"{ASIDE}{HERE}-{os.getpid()}-17-older-last-one", "one")
    remove_rubbish(tmp_path)
    assert names(tmp_path) == ["best", "last-one"]


def test_what_is_being_written_is_no_rubbish(tmp_path: Path) -> None:
    with new_folder(tmp_path / "best") as aside:
        (aside / "a").write_text("x")
        remove_rubbish(tmp_path)
        assert (aside / "a").exists(), "this process is writing it"
        command = [sys.executable, "-c", REMOVER, str(tmp_path)]
        subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=True)
        assert (aside / "a").exists(), "and another one can see that"
    (tmp_path / f"{ASIDE}{HERE}-{os.getppid()}-17-ffffffffffff").mkdir()  # of an earlier life of that number
    (tmp_path / f"{ASIDE}{HERE}-{os.getpid()}-17-ffffffffffff").write_text("")
    remove_rubbish(tmp_path)
    assert names(tmp_path) == ["best"]


REMOVER = """
import sys
from pathlib import Path
from tunesmith.core.files import remove_rubbish
remove_rubbish(Path(sys.argv[1]), alone=len(sys.argv) > 2)
"""


def test_who_is_killed_and_not_yet_buried_is_dead(tmp_path: Path) -> None:
    made = "from tunesmith.core.writers import this_process; print(this_process(), flush=True)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", made], stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        writer = child.stdout.readline().strip()
        child.stdout.read()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has asked for it
        (tmp_path / f"{ASIDE}{writer}-ffffffffffff").mkdir()
        remove_rubbish(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "writer",
    [ELSEWHERE, f"{ASIDE}4194304999-0123abcd", f"{ASIDE}something"],
    ids=["elsewhere", "older-form", "something"],
)
def test_what_another_machine_may_be_writing_stays_for_a_week(tmp_path: Path, writer: str) -> None:
    """Its number is free here, or a stranger's: that says nothing of the process over there."""
    theirs = tmp_path / f"{writer}-ffffffffffff"
    (theirs / "deep").mkdir(parents=True)
    (theirs / "deep" / "file").write_text("x")
    eight_days_ago = time.time() - 8 * 24 * 3600
    for path in (theirs / "deep", theirs):
        os.utime(path, (eight_days_ago, eight_days_ago))
    remove_rubbish(tmp_path)
    assert names(tmp_path) == [theirs.name], "a file in it has just been written"
    os.utime(theirs / "deep" / "file", (eight_days_ago, eight_days_ago))
    remove_rubbish(tmp_path)
    assert names(tmp_path) == []


def test_who_is_alone_takes_the_rubbish_of_all_machines(tmp_path: Path) -> None:
    (tmp_path / f"{ELSEWHERE}-ffffffffffff").mkdir()
    (tmp_path / f"{ASIDE}replay").mkdir()
    make(tmp_path / f"{ELSEWHERE}-older-best", "one")
    remove_rubbish(tmp_path, alone=True)
    assert names(tmp_path) == ["best"]


def test_another_machines_replacement_is_given_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / f"{ELSEWHERE}-older-best", "one")
    make(tmp_path / "next", "two")
    Timer(0.3, lambda: (tmp_path / "next").rename(tmp_path / "best")).start()  # its second rename
    remove_rubbish(tmp_path)
    assert (tmp_path / "best" / "a").read_text() == "two"
    assert names(tmp_path) == [f"{ELSEWHERE}-older-best", "best"], "it takes its own rubbish away"
    shutil.rmtree(tmp_path / "best")
    monkeypatch.setattr(files, "_HALF_DONE", 0.2)
    remove_rubbish(tmp_path)
    assert names(tmp_path) == ["best"] and (tmp_path / "best" / "a").read_text() == "one"


def test_a_process_of_another_container_is_one_of_another_machine(tmp_path: Path) -> None:
    """Both see one folder, and neither knows the other's numbers: what lives here stays, and what was killed there."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a container")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", REMOVER, str(tmp_path)]
    with new_folder(tmp_path / "best") as aside:
        (aside / "a").write_text("x")
        subprocess.run([*unshare, *command], env=environment, check=True)
        assert (aside / "a").exists()
        blind = ["unshare", "--pid", "--fork"]  # /proc shows the numbers of this one there
        subprocess.run([*blind, *command], env=environment, check=True)
        assert (aside / "a").exists()
    assert names(tmp_path) == ["best"]


def test_a_folder_that_was_taken_for_rubbish_does_not_appear_half_empty(tmp_path: Path) -> None:
    make(tmp_path / "best", "one")
    with pytest.raises(TunesmithError) as error, new_folder(tmp_path / "best") as aside:
        (aside / "a").write_text("two")
        shutil.rmtree(aside)
    assert code_of(error) == "core.disk_fault"
    assert names(tmp_path) == ["best"] and (tmp_path / "best" / "a").read_text() == "one"


def test_a_folder_is_removed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "checkpoint-1", "one")
    monkeypatch.setattr(files.shutil, "rmtree", lambda *_, **__: None)  # a kill before the first file goes
    remove_folder(tmp_path / "checkpoint-1")
    assert not (tmp_path / "checkpoint-1").exists()
    remove_folder(tmp_path / "never there")


def test_one_file_is_held_to_its_manifest(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder:
        (folder / "config.json").write_text("{}", "utf-8")
    made = tmp_path / "a"
    verify_file(made, "config.json")
    for change, code in ((b"{ }", "core.hash_differs"), (None, "core.missing_file")):
        path = made / "config.json"
        path.write_bytes(change) if change is not None else path.unlink()
        with pytest.raises(TunesmithError) as error:
            verify_file(made, "config.json")
        assert error.value.code == code
    (made / "other.json").write_text("{}", "utf-8")
    with pytest.raises(TunesmithError) as error:
        verify_file(made, "other.json")
    assert error.value.code == "core.unknown_file"
