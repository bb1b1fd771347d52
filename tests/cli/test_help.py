"""Every verb explains itself in both languages, and every help text is a sentence of the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from tiny_project import Program

from tunesmith.cli.init import ROWS
from tunesmith.cli.main import ORDER, app
from tunesmith.messages import LANGUAGES, say
from tunesmith.recipe.load import load_recipe

TEMPLATES = Path(__file__).parents[2] / "src" / "tunesmith" / "cli" / "templates"


def commands() -> Iterator[tuple[str, ...]]:
    program = typer.main.get_command(app)
    for name, command in program.commands.items():  # type: ignore[attr-defined]
        yield (name,)
        for inner in getattr(command, "commands", {}):
            yield (name, inner)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("names", [(), *commands()], ids=" ".join)
def test_help_speaks_the_language(call: Program, names: tuple[str, ...], language: str) -> None:
    result = call(*names, "--help", "--lang", language)
    assert result.code == 0
    assert "cli." not in result.out, "a code was printed in place of its sentence"
    assert ("用法" in result.out) == (language == "zh")
    assert "--json" in result.out and "--lang" in result.out
    code = "cli.help" if not names else f"cli.help_{'_'.join(names)}"
    assert say(code)[:20] in result.out


def test_the_order_names_every_verb() -> None:
    program = typer.main.get_command(app)
    assert sorted(ORDER) == sorted(program.commands)  # type: ignore[attr-defined]


def test_without_arguments_the_help_is_shown(call: Program) -> None:
    assert "demo" in call().out


def test_the_language_may_stand_anywhere(call: Program) -> None:
    for arguments in (["--lang", "zh", "explain", "core.disk_full"], ["explain", "--lang=zh", "core.disk_full"]):
        assert "磁盘已满" in call(*arguments).out


@pytest.mark.parametrize("task", ROWS)
def test_the_sample_recipe_is_short_and_means_the_same(task: str) -> None:
    paths = {language: TEMPLATES / f"{task}.{language}.yaml" for language in LANGUAGES}
    assert all(len(path.read_text("utf-8").splitlines()) < 50 for path in paths.values())
    found = {language: load_recipe(path) for language, path in paths.items()}
    assert {recipe.data.task for recipe in found.values()} == {task}
    assert found["en"].goal.problem != found["zh"].goal.problem
    meant = [recipe.model_dump() for recipe in found.values()]
    for each in meant:
        each["goal"]["problem"] = ""
    assert meant[0] == meant[1]
