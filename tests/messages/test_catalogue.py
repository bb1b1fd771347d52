"""Both languages are complete, and the code and the catalogue name the same codes with the same facts.

Read off the syntax tree: every `TunesmithError("room.name", fact=...)`, `say(...)` and `both(...)` with a plain code. A
code that is put together at run time (`say(f"recipe.reason_{kind}")`) is matched by its plain parts.
"""

from __future__ import annotations

import ast
import re
import string
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import tunesmith
from tunesmith import messages
from tunesmith.core.errors import TunesmithError
from tunesmith.messages import LANGUAGES, both, error_codes, explain, language, render, say, set_language

SOURCE = Path(tunesmith.__file__).parent
CATALOGUE = Path(messages.__file__).parent
RAISING, SAYING = {"TunesmithError"}, {"say", "both", "words_of"}
ROOMS = sorted(path.stem for path in (CATALOGUE / "en").glob("*.toml"))


@dataclass(frozen=True)
class Use:
    """A code in the source. `code` is a regular expression's text where parts are open; `facts` None where unknown."""

    where: str
    kind: str
    code: str
    facts: frozenset[str] | None


@cache
def room(name: str, in_language: str) -> dict[str, dict[str, object]]:
    return tomllib.loads((CATALOGUE / in_language / f"{name}.toml").read_text("utf-8"))


def sentences(in_language: str) -> dict[str, str]:
    """Every sentence by its full place, such as `data.errors.empty_file.cause`."""
    found: dict[str, str] = {}

    def collect(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                collect(f"{prefix}.{key}", each)
        else:
            assert isinstance(value, str), prefix
            found[prefix] = value

    for name in ROOMS:
        collect(name, room(name, in_language))
    return found


def placeholders(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None}


@cache
def trees() -> dict[str, ast.Module]:
    return {str(path.relative_to(SOURCE)): ast.parse(path.read_text("utf-8")) for path in sorted(SOURCE.rglob("*.py"))}


def pattern_of(node: ast.expr) -> str | None:
    """The code as a regular expression; None where nothing of it is plain."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = [re.escape(str(part.value)) if isinstance(part, ast.Constant) else r"[\w.]+" for part in node.values]
        return (
            "".join(parts) if "." in "".join(str(p.value) for p in node.values if isinstance(p, ast.Constant)) else None
        )
    return None


def uses() -> Iterator[Use]:
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            code = pattern_of(node.args[0])
            if called not in RAISING | SAYING or code is None:
                continue
            if r"\." not in code:  # a room's own helper puts the room's name before it
                code = rf"{name.split('/')[0]}\.{code}"
            facts = {keyword.arg for keyword in node.keywords}
            known = None if None in facts else frozenset(str(fact) for fact in facts)
            yield Use(f"{name}:{node.lineno}", "errors" if called in RAISING else "say", code, known)


def catalogue_codes(kind: str) -> dict[str, set[str]]:
    """Full code -> placeholders of its sentences, of the errors or of the plain sentences."""
    codes: dict[str, set[str]] = {}
    for name in ROOMS:
        for key, value in room(name, "en").get(kind, {}).items():
            texts = list(value.values()) if isinstance(value, dict) else [str(value)]
            codes[f"{name}.{key}"] = set().union(*(placeholders(str(text)) for text in texts))
    return codes


# -------------------------------------------------------------------------------------------- languages


def test_both_languages_have_the_same_files() -> None:
    files = {each: sorted(path.name for path in (CATALOGUE / each).iterdir()) for each in LANGUAGES}
    assert files["en"] == files["zh"] and len(files["en"]) > 10


def test_both_languages_have_the_same_sentences_with_the_same_placeholders() -> None:
    english, chinese = sentences("en"), sentences("zh")
    assert english.keys() == chinese.keys()
    for place, sentence in english.items():
        assert placeholders(sentence) == placeholders(chinese[place]), place


def test_an_error_has_a_cause_and_a_next_step_and_nothing_else() -> None:
    for name in ROOMS:
        for each in LANGUAGES:
            content = room(name, each)
            assert content.keys() <= {"errors", "say"}, name
            for key, entry in content.get("errors", {}).items():
                assert isinstance(entry, dict) and entry.keys() == {"cause", "next"}, f"{name}.{key}"


def test_sentences_read_as_sentences() -> None:
    for each in LANGUAGES:
        for place, sentence in sentences(each).items():
            assert sentence.strip(), place
            if ".errors." in place:
                assert sentence.strip() == sentence, place
                ends = sentence[-1] in (".!?})" if each == "en" else "。！？}）)")
                assert ends or re.search(r"[:：] *\S", sentence), f"{each} {place}: {sentence}"  # a command may end it
            for name in placeholders(sentence):
                assert name.isidentifier(), f"{place}: {{{name}}}"


def test_chinese_is_chinese_and_english_is_english() -> None:
    han = re.compile(r"[\u4e00-\u9fff]")
    for place, sentence in sentences("zh").items():
        if ".errors." in place:
            assert han.search(sentence), place
    # The name of the other language stands in its own script wherever a page lets the reader choose.
    strays = {place for place, sentence in sentences("en").items() if han.search(sentence) and ".errors." in place}
    assert not strays


# ------------------------------------------------------------------------------------ code and catalogue


@pytest.mark.parametrize("kind", ["errors", "say"])
def test_every_code_in_the_source_is_in_the_catalogue(kind: str) -> None:
    known = catalogue_codes(kind)
    found = [use for use in uses() if use.kind == kind]
    assert len(found) > 50
    lost = [f"{use.where}: {use.code}" for use in found if not any(re.fullmatch(use.code, code) for code in known)]
    assert not lost


@pytest.mark.parametrize("kind", ["errors", "say"])
def test_the_facts_fill_every_placeholder(kind: str) -> None:
    known = catalogue_codes(kind)
    wrong = [
        f"{use.where}: {code} needs {sorted(needed)}, gets {sorted(use.facts)}"
        for use in uses()
        if use.kind == kind and use.facts is not None
        for code, needed in known.items()
        if use.code == re.escape(code) and not needed <= use.facts
    ]
    assert not wrong


def test_no_error_is_given_a_fact_that_no_sentence_uses() -> None:
    """`signal` of train.interrupted becomes the exit code; everything else that is given is said."""
    known = catalogue_codes("errors")
    spare = [
        f"{use.where}: {code} {sorted(use.facts - needed)}"
        for use in uses()
        if use.kind == "errors" and use.facts is not None
        for code, needed in known.items()
        if use.code == re.escape(code) and use.facts - needed - {"signal"}
    ]
    assert not spare


def strings_in_source() -> tuple[set[str], list[str]]:
    """Every plain text of the source, and every put-together one as a regular expression."""
    plain: set[str] = set()
    patterns: list[str] = []
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                plain.add(node.value)
            elif isinstance(node, ast.JoinedStr) and (pattern := pattern_of(node)):
                patterns.append(pattern)
    return plain, patterns


@pytest.mark.parametrize("kind", ["errors", "say"])
def test_every_entry_of_the_catalogue_is_used(kind: str) -> None:
    plain, patterns = strings_in_source()
    pages = "".join(path.read_text("utf-8") for path in SOURCE.rglob("*") if path.suffix in (".html", ".j2", ".md"))
    idle = [
        code
        for code in catalogue_codes(kind)
        if code not in plain
        and not any(re.fullmatch(pattern, code) for pattern in patterns)
        and not (kind == "say" and (code.partition(".")[2] in plain or code.partition(".")[2] in pages))
    ]
    assert not idle


def test_the_doors_of_the_room() -> None:
    assert len(error_codes()) == len(set(error_codes())) == len(catalogue_codes("errors"))
    for code in error_codes():
        for each in LANGUAGES:
            words = explain(code, each)
            assert words.code == code and words.cause and words.next_step


# ------------------------------------------------------------------------------------------- the language


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TUNESMITH_LANG": "zh"}, "zh"),
        ({"TUNESMITH_LANG": "en", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LC_ALL": "zh_TW.UTF-8", "LANG": "en_US.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "C"}, "en"),
        ({"TUNESMITH_LANG": "", "LC_ALL": "", "LANG": "Chinese (Simplified)_China.936"}, "zh"),
    ],
)
def test_the_language_is_the_systems(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str) -> None:
    for name in ("TUNESMITH_LANG", "LC_ALL", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language() == expected
    set_language("en" if expected == "zh" else "zh")
    assert language() != expected
    set_language(None)
    assert language() == expected


def test_sentences_are_filled_in_the_language_in_force() -> None:
    facts = {"source": "{a}", "rows": 2, "tokens": 9, "share": "50 %", "cut": 0}
    assert both("tasks.share_line", **facts).keys() == set(LANGUAGES)
    for each in LANGUAGES:
        set_language(each)
        assert say("tasks.share_line", **facts) == both("tasks.share_line", **facts)[each]
        assert say("tasks.share_line", **facts).startswith("{a}"), "a fact is never taken for a placeholder"
    with pytest.raises(KeyError):
        say("tasks.nothing")
    with pytest.raises(KeyError):
        say("tasks.share_line")


def test_an_error_in_words() -> None:
    error = TunesmithError("core.disk_full", path="/a {b}", needed_mb=5, free_mb=3)
    assert "/a {b} needs at least 5 MB, 3 MB are free" in render(error, "en").cause
    assert "/a {b}" in render(error, "zh").cause
    assert str(error) == "core.disk_full (path=/a {b}, needed_mb=5, free_mb=3)" and str(TunesmithError("a.b")) == "a.b"


@pytest.mark.parametrize(
    "code", ["", ".", "core", "core.", "core.nothing", "nothing.at_all", "../en/core.disk_full", "a\0.b"]
)
def test_a_code_that_does_not_exist(code: str) -> None:
    with pytest.raises(TunesmithError) as error:
        explain(code)
    assert error.value.code == "messages.unknown_code"
    render(error.value)
