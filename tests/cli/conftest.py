"""One tiny run for all tests of this folder, made through the program itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_project import Call, Program, write_tiny_recipe
from typer.testing import CliRunner

from tunesmith.cli.main import app


@pytest.fixture
def call() -> Program:
    """Call the program in this process."""

    def calling(*arguments: str | Path, input: str | None = None) -> Call:
        result = CliRunner().invoke(app, [str(each) for each in arguments], input=input)
        assert "Traceback" not in result.output
        return Call(result.exit_code, result.stdout, result.stderr)

    return calling


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tunesmith.models.tiny import tiny_chat_model

    return tiny_chat_model(tmp_path_factory.mktemp("cli") / "base", spread=0.1, context=2048)


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    return write_tiny_recipe(tmp_path_factory.mktemp("project"), base)


@pytest.fixture(scope="session")
def finished(recipe: Path) -> dict[str, object]:
    """The answer of `run --json` on the tiny recipe."""
    arguments = ["run", str(recipe), "--runs", str(recipe.parent / "runs"), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert isinstance(value, dict)
    return value


@pytest.fixture(scope="session")
def run(finished: dict[str, object]) -> Path:
    return Path(str(finished["run"]))
