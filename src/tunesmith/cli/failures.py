"""Whatever stops a command becomes a code, a cause and a next step, and an exit code; never a bare traceback.

0    done                        130  stopped with Ctrl-C
2    something the user can mend  143  stopped with SIGTERM
1    unforeseen; the trace is in a file
141  nobody reads the output any more
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from tunesmith.cli.manner import manner
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import disk_errors, write_atomic
from tunesmith.core.secrets import first_line, without_secrets
from tunesmith.messages import render, say
from tunesmith.models.catalog import cache_folder

USER_ERROR, UNEXPECTED, INTERRUPTED, TERMINATED, BROKEN_PIPE = 2, 1, 130, 143, 141
_DISK_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory")


class Terminated(BaseException):
    """SIGTERM arrived. No ordinary handler catches it, so that it ends the command from wherever it is."""


@dataclass(frozen=True)
class Failure:
    """Why a command ended: an error in words, and the exit code."""

    error: TunesmithError
    exit_code: int


def failure_of(error: BaseException) -> Failure:
    """The error that a user is shown for whatever was raised."""
    if isinstance(error, TunesmithError):
        stopped = error.code == "train.interrupted"
        return Failure(error, 128 + int(error.facts["signal"]) if stopped else USER_ERROR)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return Failure(TunesmithError("core.interrupted"), INTERRUPTED)
    if isinstance(error, Terminated):
        return Failure(TunesmithError("core.interrupted"), TERMINATED)
    known = _usage_error(error) or _machine_error(error)
    if known is not None:
        return Failure(known, USER_ERROR)
    path = _keep_trace(error)
    unforeseen = TunesmithError("core.unexpected", kind=type(error).__name__, reason=first_line(error), path=path)
    return Failure(unforeseen, UNEXPECTED)


def _usage_error(error: BaseException) -> TunesmithError | None:
    """What the parser of arguments refuses. Its classes are private to it, so they are known by what they carry."""
    context = getattr(error, "ctx", None)
    if not hasattr(error, "format_message") or context is None:
        return None
    verb = str(context.command_path)
    option = getattr(error, "option_name", None)
    kind = type(error).__name__
    if kind == "NoSuchOption":
        near = ", ".join(getattr(error, "possibilities", None) or ()) or f"{verb} --help"
        return TunesmithError("cli.unknown_option", option=str(option), verb=verb, nearest=near)
    parameter = getattr(error, "param", None)
    if kind == "MissingParameter":
        return TunesmithError("cli.missing_argument", name=_parameter_name(parameter), verb=verb)
    reason = str(error.format_message())
    if parameter is not None:
        reason = reason.partition("': ")[2] or reason
        return TunesmithError("cli.bad_value", name=_parameter_name(parameter), reason=reason, verb=verb)
    return TunesmithError("cli.bad_usage", reason=reason, verb=verb)


def _parameter_name(parameter: object) -> str:
    """`--port` for an option, RECIPE for an argument."""
    options = [each for each in getattr(parameter, "opts", ()) if str(each).startswith("-")]
    return options[-1] if options else str(getattr(parameter, "metavar", None) or getattr(parameter, "name", "?"))


def _machine_error(error: BaseException) -> TunesmithError | None:
    """Refusals of the machine that no room met on its own: a full disk, no right to write, no memory, no package."""
    if isinstance(error, OSError) and error.errno in _DISK_REFUSALS:
        path = str(error.filename or Path.cwd())
        try:
            with disk_errors(Path(path)):
                raise error
        except TunesmithError as known:
            return known
    if isinstance(error, FileNotFoundError) and error.filename:
        return TunesmithError("core.missing_file", path=str(error.filename))
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("tunesmith"):
        return TunesmithError("cli.missing_package", package=error.name)
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _MEMORY_WORDS):
        return TunesmithError("cli.out_of_memory")
    return None


def _keep_trace(error: BaseException) -> str:
    """Write the trace where a report can quote it; where no file can be written, say so instead."""
    path = cache_folder() / "errors" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    trace = without_secrets("".join(traceback.format_exception(error)))
    try:
        write_atomic(path, f"{without_secrets(' '.join(sys.argv))}\n\n{trace}")
    except TunesmithError:
        sys.stderr.write(trace)
        return "stderr"
    return str(path)


def show(error: TunesmithError) -> None:
    """Print an error: a JSON object on standard output, a panel in a terminal, plain lines elsewhere."""
    words = render(error)
    if manner().as_json:
        value = {"error": {"code": words.code, "cause": words.cause, "next": words.next_step}}
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
        return
    console = Console(file=sys.stderr, highlight=False, soft_wrap=not sys.stderr.isatty())
    if console.is_terminal:
        body = Text.assemble(words.cause, "\n", (say("cli.next_step"), "bold"), words.next_step)
        title = Text(words.code, "bold")
        console.print(Panel(body, title=title, title_align="left", border_style="yellow", padding=(0, 1)))
    else:
        for line in (words.code, f"  {words.cause}", f"  {say('cli.next_step')}{words.next_step}"):
            console.print(line, markup=False)


def close_output() -> None:
    """Nobody reads any more: send the rest nowhere, so that the interpreter's last flush stays quiet."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError):
            continue
