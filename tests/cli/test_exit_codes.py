"""The program as a process: exit codes, streams, signals, a reader that leaves, a port that is taken."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_project import RECIPE, write_tiny_recipe

COMMAND = [sys.executable, "-m", "tunesmith"]


def start(*arguments: str | Path, folder: Path) -> subprocess.Popen[str]:
    words = [*COMMAND, *(str(each) for each in arguments)]
    return subprocess.Popen(
        words, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = child.communicate(timeout=60)
    assert "Traceback" not in out + err, err
    return child.returncode, out, err


def wait_for(child: subprocess.Popen[str], words: str) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        if words in line:
            return
    raise AssertionError(f"{words!r} never came: {child.communicate()[1]}")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("learning_rate", "learning_rat"), "recipe.unknown_key"),
        (("tickets/train.jsonl", "absent.jsonl"), "data.missing_path"),
        (("tickets/train.jsonl", "broken.jsonl"), "data."),
        (("base: ", "base: absent-"), "models.unknown_base"),
        (("name: tiny", "name: [tiny"), "recipe.broken_yaml"),
    ],
)
def test_wrong_input_is_no_traceback_and_leaves_nothing(
    change: tuple[str, str], code: str, base: Path, tmp_path: Path
) -> None:
    recipe = write_tiny_recipe(tmp_path, Path("base"))
    (tmp_path / "base").symlink_to(base)
    (tmp_path / "broken.jsonl").write_bytes(b'{"messages": [{"role": \x00\xff')
    recipe.write_text(recipe.read_text("utf-8").replace(*change), "utf-8")
    returned, out, _ = finish(start("run", recipe, "--json", folder=tmp_path))
    assert returned == 2
    assert json.loads(out)["error"]["code"].startswith(code)
    assert not (tmp_path / "runs").exists()


def test_a_taken_port(run: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        returned, out, _ = finish(start("serve", run, "--port", str(port), "--json", folder=run))
    assert returned == 2 and json.loads(out)["error"]["code"] == "serve.port_taken"


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_serve_ends_with_the_signals_code(run: Path, number: signal.Signals, expected: int) -> None:
    child = start("serve", run, "--port", "0", folder=run)
    wait_for(child, "http://127.0.0.1")
    time.sleep(1)
    child.send_signal(number)
    assert finish(child)[0] == expected


def test_ctrl_c_in_training_saves_and_the_same_command_ends_it(base: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    write_tiny_recipe(tmp_path, base)
    recipe.write_text(
        RECIPE.format(base=base).replace(", save_steps: 3", "").replace("epochs: 2", "epochs: 20, eval_steps: 50"),
        "utf-8",
    )
    child = start("train", recipe, folder=tmp_path)
    wait_for(child, "training 25/100")
    child.send_signal(signal.SIGINT)
    returned, _, err = finish(child)
    assert returned == 130 and err.startswith("train.interrupted")
    returned, out, err = finish(start("train", recipe, folder=tmp_path))
    assert returned == 0 and "Continuing from step" in out, err


def test_a_reader_that_leaves(tmp_path: Path) -> None:
    child = start("explain", folder=tmp_path)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    assert child.wait(timeout=30) in (0, 141)
    assert "Traceback" not in child.stderr.read()
    child.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_output(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        returned = subprocess.run(
            [*COMMAND, "explain"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert returned.returncode == 2
    assert returned.stderr.startswith("core.disk_full") and "Traceback" not in returned.stderr


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    returned, _, err = finish(start("init", folder=tmp_path))
    assert returned == 2 and err.startswith("core.not_writable")


def test_ctrl_c_at_the_prompt_of_a_chat(run: Path, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    environment = {**os.environ, "TERM": "dumb", "COLUMNS": "80"}
    child = subprocess.Popen(
        [*COMMAND, "chat", str(run)], cwd=tmp_path, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    while "›".encode() not in seen:
        seen += os.read(ours, 4096)
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=20) == 130
    with contextlib.suppress(OSError):  # the other end of a terminal that was closed
        seen += os.read(ours, 4096)
    os.close(ours)
    assert b"core.interrupted" in seen and b"Traceback" not in seen
