"""`tunesmith chat RUN|BASE`: talk to a model in the terminal."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.manner import answer, manner, prose, tell
from tunesmith.cli.models import Asked, open_model, question
from tunesmith.cli.options import BaseOption
from tunesmith.core.types import Message
from tunesmith.messages import say

if TYPE_CHECKING:
    from tunesmith.models.generate import Progress

ModelArgument = Annotated[str, typer.Argument(metavar="RUN|BASE", help="cli.arg_chat", show_default=False)]
SystemOption = Annotated[
    str | None, typer.Option("--system", metavar="TEXT", help="cli.opt_system", show_default=False)
]
LengthOption = Annotated[int, typer.Option("--max-new-tokens", min=1, metavar="N", help="cli.opt_max_new_tokens")]
TemperatureOption = Annotated[float, typer.Option("--temperature", min=0.0, metavar="T", help="cli.opt_temperature")]


def chat(
    model: ModelArgument, system: SystemOption = None, max_new_tokens: LengthOption = 256,
    temperature: TemperatureOption = 0.0, base: BaseOption = None,
) -> None:  # fmt: skip
    """Answer line after line, until an empty end of input."""
    asked = open_model(model, base)
    told = asked.system if system is None else system
    if told:
        prose(say("cli.chat_system", text=told), "dim")
    interactive = sys.stdin.isatty()
    if interactive:
        tell(say("cli.chat_leave"), "dim")
    turns = [Message("system", told)] if told else []
    talk: list[dict[str, str]] = []
    for line in _lines(interactive):
        # A tuned model of single questions was never shown a history; a base chats on.
        turns = question(line, told) if asked.system else [*turns, Message("user", line)]
        text = _reply(asked, turns, max_new_tokens, temperature)
        turns = [*turns, Message("assistant", text)]
        talk.append({"user": line, "assistant": text})
    answer({"turns": talk})


def _lines(interactive: bool) -> list[str] | _Prompting:
    return _Prompting() if interactive else [line.strip() for line in sys.stdin if line.strip()]


class _Prompting:
    """Lines typed by a person, until Ctrl-D."""

    def __iter__(self) -> _Prompting:
        return self

    def __next__(self) -> str:
        while True:
            # polars puts a handler of its own before Python's, after which a waiting read would go on over Ctrl-C
            signal.siginterrupt(signal.SIGINT, True)
            try:
                line = input("› ").strip()
            except EOFError:
                tell()
                raise StopIteration from None
            if line:
                return line


def _reply(asked: Asked, turns: list[Message], max_new_tokens: int, temperature: float) -> str:
    """Generate and print the answer as it comes."""
    from tunesmith.models.generate import generate
    from tunesmith.models.sampling import GenerateSettings

    settings = GenerateSettings(
        max_new_tokens, temperature=temperature, end_token_ids=tuple(sorted(asked.task.end_token_ids))
    )

    def show(progress: Progress) -> None:
        if not manner().as_json:
            sys.stdout.write(progress.text)
            sys.stdout.flush()

    found = generate(asked.loaded.model, asked.loaded.tokenizer, [asked.task.prompt(turns)], settings, on_token=show)
    tell()
    return found[0].text
