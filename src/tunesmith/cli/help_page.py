"""The help page of a command, in the language in force.

Help texts of commands, arguments and options are codes of sentences (`cli.opt_json`); this page says them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from tunesmith.cli.manner import PlainConsole
from tunesmith.messages import say


def show(command: TyperCommand | TyperGroup, context: typer.Context) -> None:
    """Print usage, what the command does, its arguments, options, commands and an example."""
    console = PlainConsole(highlight=False)
    usage = [context.command_path, *_usage_pieces(command)]
    console.print(Text.assemble((say("cli.usage") + " ", "bold"), " ".join(usage)))
    if command.help:
        console.print()
        console.print(say(command.help), markup=False)
    shown = [each for each in command.get_params(context) if not getattr(each, "hidden", False)]
    arguments = [(_argument_name(each), _help_of(each)) for each in shown if each.param_type_name == "argument"]
    options = [(_option_name(each), _help_of(each)) for each in shown if each.param_type_name == "option"]
    _section(console, "cli.arguments", arguments)
    if isinstance(command, TyperGroup):
        _section(console, "cli.commands", _commands(command, context))
    common = [("--json", say("cli.opt_json")), ("--lang en|zh", say("cli.opt_lang"))]
    _section(console, "cli.options", [*options, *common])
    if command.epilog:
        _section(console, "cli.examples", [(line, "") for line in say(command.epilog).splitlines()])


def _usage_pieces(command: TyperCommand | TyperGroup) -> list[str]:
    names = [_argument_name(each) for each in command.params if each.param_type_name == "argument"]
    tail = [command.subcommand_metavar] if isinstance(command, TyperGroup) else []
    return [*names, *tail, say("cli.usage_options")]


def _commands(group: TyperGroup, context: typer.Context) -> Iterable[tuple[str, str]]:
    for name in group.list_commands(context):
        command = group.commands[name]
        if not command.hidden:
            yield name, say(command.help).splitlines()[0] if command.help else ""


def _argument_name(parameter: object) -> str:
    name = str(getattr(parameter, "metavar", None) or str(getattr(parameter, "name", "")).upper())
    several = "..." if getattr(parameter, "nargs", 1) == -1 else ""
    return f"{name}{several}" if getattr(parameter, "required", True) else f"[{name}{several}]"


def _option_name(parameter: object) -> str:
    names = ", ".join([*getattr(parameter, "opts", ()), *getattr(parameter, "secondary_opts", ())])
    if getattr(parameter, "is_flag", False) or getattr(parameter, "name", "") == "help":
        return names
    return f"{names} {getattr(parameter, 'metavar', None) or str(getattr(parameter, 'name', '')).upper()}"


def _help_of(parameter: object) -> str:
    if getattr(parameter, "name", "") == "help":
        return say("cli.opt_help")
    code = getattr(parameter, "help", None)
    text = say(code) if code else ""
    default = getattr(parameter, "default", None)
    plain = isinstance(default, str | int) and not isinstance(default, bool)
    if (plain or hasattr(default, "__fspath__")) and getattr(parameter, "show_default", False):
        text += " " + say("cli.default", value=str(default))
    return text


def _section(console: Console, title: str, rows: Iterable[tuple[str, str]]) -> None:
    listed: Sequence[tuple[str, str]] = list(rows)
    if not listed:
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for name, text in listed:
        table.add_row(Text(f"  {name}"), Text(text))
    console.print()
    console.print(Text(say(title), "bold"))
    console.print(table)
