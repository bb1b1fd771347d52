"""How this call of the program speaks: for people or as JSON, and on which stream.

`--json` and `--lang` are looked for before anything else is read, so that a refused argument is already answered in
the right form and language.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from tunesmith.core.errors import TunesmithError
from tunesmith.messages import LANGUAGES, Language, set_language

_AS_IT_IS = re.compile(r"[\w@%+=:,./-]+")
"""What a shell reads as one word and as it stands; letters of every script are among it."""


@dataclass(frozen=True)
class Manner:
    """`as_json`: one JSON object on standard output at the end, everything else on standard error."""

    as_json: bool = False


_chosen: list[Manner] = [Manner()]


def manner() -> Manner:
    """The manner of this call."""
    return _chosen[0]


def command(*words: object) -> str:
    """A call of this program as it can be copied into a shell: a path with blanks in it stays one word."""
    texts = ["tunesmith", *map(str, words)]
    return " ".join(each if _AS_IT_IS.fullmatch(each) else shlex.quote(each) for each in texts)


def choose_manner(arguments: Sequence[str]) -> list[str]:
    """Take `--json` and `--lang` out of the raw arguments and return the others. Errors: cli.bad_language."""
    as_json, wanted = False, None
    rest: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--":
            rest += [argument, *waiting]
            break
        if argument == "--json":
            as_json = True
        elif argument.startswith("--lang="):
            wanted = argument.partition("=")[2]
        elif argument == "--lang":
            wanted = waiting.pop(0) if waiting else ""
        else:
            rest.append(argument)
    _chosen[:] = [Manner(as_json)]
    if wanted is not None:
        set_language(_language(wanted))
    return rest


def _language(wanted: str) -> Language:
    for each in LANGUAGES:
        if wanted.lower().replace("_", "-").split("-")[0] == each:
            return each
    raise TunesmithError("cli.bad_language", given=wanted, valid=", ".join(LANGUAGES))


class PlainConsole(Console):
    """A console that leaves a broken pipe to the program, which knows the exit code."""

    def on_broken_pipe(self) -> None:
        """Raise what rich has caught."""
        raise BrokenPipeError


def console() -> Console:
    """Where people read: standard output, or standard error when the output is JSON.

    Made anew each time, because a test or a caller may have put another stream in place.
    """
    stream = sys.stderr if manner().as_json else sys.stdout
    return PlainConsole(file=stream, highlight=False, soft_wrap=True)


def tell(text: str = "", style: str = "") -> None:
    """One line for people; nothing where the answer is JSON."""
    if not manner().as_json:
        console().print(text, style=style or None, markup=False)


def prose(text: str, style: str = "", indent: int = 0) -> None:
    """A sentence for people: in a terminal it breaks between words and its lines stand under each other."""
    to = console()
    if manner().as_json:
        return
    if to.is_terminal:
        to.print(Padding(Text(text, style), (0, 0, 0, indent)), soft_wrap=False)
    else:
        to.print(Text(" " * indent + text, style))


def answer(value: Mapping[str, object]) -> None:
    """The result as JSON, where JSON is asked for; people have been told already."""
    if manner().as_json:
        sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
        sys.stdout.flush()
