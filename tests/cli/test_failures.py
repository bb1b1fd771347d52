"""Whatever is raised becomes a code and an exit code; the unforeseen is kept in a file."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import typer

from tunesmith.cli import failures
from tunesmith.cli.manner import choose_manner
from tunesmith.core.errors import TunesmithError


@pytest.mark.parametrize(
    ("raised", "code", "exit_code"),
    [
        (TunesmithError("data.empty_file", path="x"), "data.empty_file", 2),
        (TunesmithError("train.interrupted", step=3, signal=2), "train.interrupted", 130),
        (TunesmithError("train.interrupted", step=3, signal=15), "train.interrupted", 143),
        (KeyboardInterrupt(), "core.interrupted", 130),
        (failures.Terminated(), "core.interrupted", 143),
        (typer.Abort(), "core.interrupted", 130),
        (OSError(errno.ENOSPC, "No space left", "/somewhere/file"), "core.disk_full", 2),
        (PermissionError(errno.EACCES, "Permission denied", "/somewhere/file"), "core.not_writable", 2),
        (FileNotFoundError(errno.ENOENT, "No such file", "gone.json"), "core.missing_file", 2),
        (ModuleNotFoundError("No module named 'openai'", name="openai"), "cli.missing_package", 2),
        (MemoryError(), "cli.out_of_memory", 2),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "cli.out_of_memory", 2),
        (ZeroDivisionError("division by zero"), "core.unexpected", 1),
        (ModuleNotFoundError("No module named 'tunesmith.x'", name="tunesmith.x"), "core.unexpected", 1),
    ],
)
def test_what_is_raised_has_a_code(
    raised: BaseException, code: str, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = failures.failure_of(raised)
    assert (failure.error.code, failure.exit_code) == (code, exit_code)
    choose_manner([])
    failures.show(failure.error)
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith(code) and "{" not in told.err and "Next:" in told.err
    choose_manner(["--json"])
    failures.show(failure.error)
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    choose_manner([])


def test_the_unforeseen_is_kept_where_it_can_be_quoted() -> None:
    def inner() -> None:
        raise ZeroDivisionError("division by zero")

    try:
        inner()
    except ZeroDivisionError as error:
        failure = failures.failure_of(error)
    text = Path(str(failure.error.facts["path"])).read_text("utf-8")
    assert "in inner" in text and "ZeroDivisionError: division by zero" in text


def test_json_and_language_are_found_anywhere_but_behind_a_double_dash() -> None:
    from tunesmith.cli.manner import manner

    assert choose_manner(["run", "--json", "x"]) == ["run", "x"]
    assert manner().as_json
    assert choose_manner(["chat", "--", "--json"]) == ["chat", "--", "--json"]
    assert not manner().as_json
    assert choose_manner(["run", "--lang=zh-CN", "x"]) == ["run", "x"]
