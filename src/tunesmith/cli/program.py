"""The classes behind every verb: one way to speak help, to take `--json` and `--lang`, to fail and to stop."""

from __future__ import annotations

import difflib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import typer
from typer.core import TyperCommand, TyperGroup

from tunesmith.cli import failures, help_page
from tunesmith.cli.manner import choose_manner
from tunesmith.core.errors import TunesmithError


class Verb(TyperCommand):
    """A command."""

    def format_help(self, ctx: typer.Context, formatter: object) -> None:  # type: ignore[override]
        """Print the page in the language in force."""
        help_page.show(self, ctx)


class Verbs(TyperGroup):
    """A command with commands of its own. With `default` set, an argument that names none of them goes to it."""

    default: str | None = None

    def format_help(self, ctx: typer.Context, formatter: object) -> None:  # type: ignore[override]
        """Print the page in the language in force."""
        help_page.show(self, ctx)

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put the default command in front of arguments that name none. Errors: cli.unknown_verb."""
        if args and args[0] not in self.commands and args[0] != "--help":
            if self.default:
                args = [self.default, *args]
            elif not args[0].startswith("-"):
                near = difflib.get_close_matches(args[0], self.commands, n=3) or list(self.commands)
                raise TunesmithError("cli.unknown_verb", given=args[0], nearest=", ".join(near))
        return super().parse_args(ctx, args)


class DataVerbs(Verbs):
    """`data RECIPE` prepares."""

    default = "prepare"


class Program(Verbs):
    """The whole program; without arguments it shows its help."""

    order: tuple[str, ...] = ()

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """The verbs in the order in which a newcomer meets them."""
        return sorted(self.commands, key=self.order.index)

    def main(self, args: Sequence[str] | None = None, *ignored: object, **settings: object) -> int:
        """Run one command and end with its exit code, whatever happens on the way."""
        arguments = list(sys.argv[1:] if args is None else args)
        code = _guard(lambda: self._act(arguments))
        if settings.get("standalone_mode", True):
            sys.exit(code)
        return code

    def _act(self, arguments: list[str]) -> int:
        rest = choose_manner(arguments) or ["--help"]
        try:
            with self.make_context("tunesmith", rest) as context:
                self.invoke(context)
        except typer.Exit as leaving:
            return leaving.exit_code
        return 0


def _guard(action: Callable[[], int]) -> int:
    """Run it; what it raises is shown as an error and becomes the exit code."""
    try:
        with _ending_on_sigterm():
            code = action()
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        failures.close_output()
        return failures.BROKEN_PIPE
    except (Exception, KeyboardInterrupt, failures.Terminated) as error:
        failure = failures.failure_of(error)
    try:
        failures.show(failure.error)
        sys.stdout.flush()
    except BrokenPipeError:
        failures.close_output()
    return failure.exit_code


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the command the way Ctrl-C does, so that what is half made is cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise failures.Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
