"""The documentation is true: generated pages are current, every snippet is checked, both languages match."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import typer
from tiny_project import write_tiny_recipe

from tunesmith.cli.main import app
from tunesmith.core.ledger import Ledger
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.recipe.load import load_recipe, parse_recipe
from tunesmith.recipe.specs.data import SourceSpec

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*/*.md")])
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
FENCE = re.compile(r"^```(\w*)[ ]?(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Snippet:
    page: str
    language: str
    tag: str
    text: str


def snippets(language: str, tag: str | None = None) -> list[Snippet]:
    found = [
        Snippet(name, *match.groups())
        for name, path in zip(NAMES, PAGES, strict=True)
        for match in FENCE.finditer(path.read_text("utf-8"))
    ]
    return [each for each in found if each.language == language and tag in (None, each.tag)]


def each_page(found: list[Snippet]) -> dict[str, list[Snippet]]:
    pages: dict[str, list[Snippet]] = {}
    for each in found:
        pages.setdefault(each.page, []).append(each)
    return pages


# ------------------------------------------------------------------------------------------ pages


def test_generated_pages_are_current() -> None:
    old = reference().stale()
    assert not old, f"run python docs/build_reference.py: {old}"


def test_every_setting_is_described_in_chinese() -> None:
    builder = reference()
    assert sorted(builder.WORDS["fields_zh"]) == sorted(builder.setting_names())


def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_reference", ROOT / "docs" / "build_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_languages_have_the_same_pages_and_snippets() -> None:
    english = sorted(path.name for path in (ROOT / "docs" / "en").iterdir())
    assert english == sorted(path.name for path in (ROOT / "docs" / "zh").iterdir())
    pairs = [("README.md", "README.zh-CN.md"), *((f"docs/en/{name}", f"docs/zh/{name}") for name in english)]
    for one, other in pairs:
        shapes = []
        for name in (one, other):
            text = (ROOT / name).read_text("utf-8")
            kinds = [(match[1], match[2]) for match in FENCE.finditer(text)]
            commands = re.findall(r"^(?:tunesmith|make) .*?(?=\s+#|$)", text, re.MULTILINE)
            shapes.append((kinds, commands, text.count("\n## "), text.count("\n|")))
        assert shapes[0] == shapes[1], f"{one} and {other} differ"


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", FENCE.sub("", text)):
        if "://" not in target:
            assert (ROOT / name).parent.joinpath(target).exists(), target


# ---------------------------------------------------------------------------------------- commands


def commands() -> Iterator[tuple[str, str]]:
    for each in snippets("bash"):
        for line in each.text.splitlines():
            if line.strip():
                yield each.page, line.partition("  #")[0].strip()


@pytest.mark.parametrize(("page", "line"), list(commands()))
def test_commands_exist(page: str, line: str) -> None:
    program, *words = shlex.split(line)
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        return
    assert program == "tunesmith", f"{page}: a program of its own: {line}"
    check_call(words)


def check_call(words: list[str]) -> None:
    """Walk from verb to verb, then hold the options against those of the last one."""
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    if getattr(command, "default", None):
        command = command.commands[command.default]  # type: ignore[attr-defined]
    assert not hasattr(command, "commands"), f"no command: {words[:1]}"
    options = {name: each for each in command.params for name in (*each.opts, *each.secondary_opts)}
    places = [each for each in command.params if each.param_type_name == "argument"]
    given = 0
    while words:
        word = words.pop(0)
        if word in ("--json",):
            continue
        if word.startswith("-"):
            assert word in options, f"no option {word}"
            if not options[word].is_flag:
                words.pop(0)
        else:
            given += 1
    assert sum(each.required for each in places) <= given <= len(places)


def test_a_wrong_command_is_found() -> None:
    for line in ("run", "run a.yaml --sett x", "runs lst", "data xray", "nonsense", "train a b"):
        with pytest.raises(AssertionError):
            check_call(shlex.split(line))


# ----------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_load(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 30
    assert re.match(r"# [A-Z].*\n# .*[\u4e00-\u9fff]", text), "the first lines say in both languages what it is"


@pytest.mark.parametrize("snippet", snippets("yaml", "recipe"), ids=lambda each: each.page)
def test_recipe_snippets_load(snippet: Snippet) -> None:
    parse_recipe(snippet.text, name=snippet.page)


def test_every_yaml_snippet_is_checked() -> None:
    assert {each.tag for each in snippets("yaml")} == {"recipe"}


# -------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("snippet", snippets("jsonl"), ids=lambda each: f"{each.page}-{each.tag}")
def test_rows_have_the_layout_that_they_show(snippet: Snippet, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(snippet.text, "utf-8")
    wanted = snippet.tag if snippet.tag in ("text", "preference", "kto", "text_class", "token_class") else "chat"
    ledger = Ledger()
    reading = Reading(wanted, None, 1)  # type: ignore[arg-type]
    frame, report = read_source(SourceSpec(path="rows.jsonl"), "train", tmp_path, reading, ledger)
    assert report.files[0].layout == snippet.tag, f"{snippet.page} {snippet.tag}"
    assert (
        len(frame) == len(snippet.text.splitlines()) == sum(1 for line in snippet.text.splitlines() if json.loads(line))
    )


# ------------------------------------------------------------------------------------------ python


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tunesmith.models.tiny import tiny_chat_model

    folder = tmp_path_factory.mktemp("docs")
    write_tiny_recipe(folder, tiny_chat_model(folder / "base", spread=0.1, context=2048))
    return folder


def run_all(found: list[Snippet], replace: tuple[str, str] = ("", "")) -> dict[str, object]:
    """Run the snippets of a page one after the other, as a reader would."""
    names: dict[str, object] = {}
    for each in found:
        exec(compile(each.text.replace(*replace) if replace[0] else each.text, each.page, "exec"), names)
    return names


@pytest.mark.parametrize("page", sorted(each_page(snippets("python", "run"))))
def test_snippets_that_run_a_recipe(
    page: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    run_all(each_page(snippets("python", "run"))[page])
    assert "release_card.html" in capsys.readouterr().out


@pytest.mark.parametrize("page", sorted(each_page(snippets("python", "server"))))
def test_snippets_that_ask_a_server(
    page: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tunesmith.core.events import SILENT
    from tunesmith.recipe.specs.serve import ServeSpec
    from tunesmith.serve.server import open_service
    from tunesmith.store.database import sqlite_url

    pytest.importorskip("openai")
    monkeypatch.setitem(os.environ, "TUNESMITH_KEY", "a-stated-key-for-tests-0123456789")
    key = os.environ["TUNESMITH_KEY"]
    server = open_service(project / "base", ServeSpec(port=0), sqlite_url(tmp_path / "s.db"), SILENT, key)
    server.start()
    try:
        names = run_all(each_page(snippets("python", "server"))[page], ("http://127.0.0.1:8000/v1", server.url))
        names["client"].close()  # type: ignore[attr-defined]
    finally:
        server.stop()
    assert '"urgency"' in capsys.readouterr().out


def test_every_python_snippet_is_run() -> None:
    assert {each.tag for each in snippets("python")} <= {"run", "server"}
