"""A recipe with one thing wrong is refused by name, with its place and what was meant: not ignored, not a traceback."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import pytest
import yaml
from faults_recipes import KINDS, TAGS, Wrong, emit, leaves, tagged, whole_recipe
from faults_tally import Tally
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.compat.check import check
from tunesmith.core.errors import TunesmithError
from tunesmith.messages import LANGUAGES, render, set_language
from tunesmith.recipe.load import load_recipe, parse_recipe
from tunesmith.recipe.plain_yaml import write_yaml


def refusal(wrong: Wrong, path: Path) -> TunesmithError:
    path.write_text(wrong.text, "utf-8")
    with pytest.raises(TunesmithError) as caught:
        check(load_recipe(path, wrong.overrides))
    return caught.value


def examine(wrong: Wrong, error: TunesmithError) -> None:
    said = f"{wrong.kind}: {error}\n{wrong.overrides}\n{wrong.text[-600:]}"
    assert error.code in {code if "." in code else f"recipe.{code}" for code in wrong.codes}, said
    for language in LANGUAGES:
        words = render(error, language)
        assert words.cause and words.next_step and len(words.cause) < 1200, said
    if wrong.place:
        place = str(error.facts["key"])
        assert place == wrong.place or (wrong.below and place.startswith(f"{wrong.place}.")), said
    if wrong.meant:
        odd = wrong.place.rpartition(".")[2]
        assert slips(odd, str(error.facts["nearest"])) <= slips(odd, wrong.meant) == 1, said


def slips(one: str, other: str) -> int:
    """Letters left out, put in, replaced or swapped with their neighbour (optimal string alignment)."""
    rows = [[max(i, j) if not i or not j else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            rows[i][j] = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (one[i - 1] != other[j - 1]))
            if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
                rows[i][j] = min(rows[i][j], rows[i - 2][j - 2] + 1)
    return rows[-1][-1]


@pytest.mark.case("C6")
@pytest.mark.timeout(600)
def test_fuzzed_recipes_are_refused_by_name(tmp_path: Path, tally: Tally) -> None:
    values = whole_recipe()
    assert parse_recipe(emit(values)) == parse_recipe(write_yaml(values)), "the recipe itself is a good one"
    for number in range(tally.amount(100, 1000)):
        kind = KINDS[number % len(KINDS)]
        wrong = kind(tally.random, values)
        examine(wrong, refusal(wrong, tmp_path / "recipe.yaml"))
        if number % 20 == 0:  # and the same through the program
            sets = [part for override in wrong.overrides for part in ("--set", override)]
            arguments = ["run", str(tmp_path / "recipe.yaml"), "--runs", str(tmp_path / "runs"), "--json", *sets]
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 2 and "Traceback" not in result.output, result.output
            stated = json.loads(result.stdout)["error"]
            assert stated["code"].split(".")[0] in ("recipe", "compat") and stated["cause"] and stated["next"]
            assert not (tmp_path / "runs").exists()
        tally.count("fuzzed recipes")


@pytest.mark.case("C6")
def test_every_number_has_both_ends(tally: Tally) -> None:
    values = whole_recipe()
    text = "model: {base: m}\ndata: {sources: [{path: a}, {path: b}], test_sources: [{path: c}]}\nstages: "
    text += "[{name: s, adapt: {kind: lora}}]\ngoal: {target: {}}\n"
    for leaf in leaves(values):
        if not leaf.numeric:
            continue
        place = ".".join(map(str, leaf.path))
        for number in ("1" + "0" * 31, "-1" + "0" * 31, "1e300")[: tally.amount(1, 3)]:
            with pytest.raises(TunesmithError) as caught:
                parse_recipe(text, [f"{place}={number}"])
            assert caught.value.facts["key"] == place
        tally.count("settings with a number")


@pytest.mark.case("C6")
def test_reasons_are_in_the_readers_language(tally: Tally) -> None:
    """Nothing falls back to the checker's own English."""
    values = whole_recipe()
    set_language("zh")
    try:
        for number in range(tally.amount(30, 400)):
            wrong = KINDS[3 + number % 5](tally.random, values)
            with pytest.raises(TunesmithError) as caught:
                check(parse_recipe(wrong.text))
            reason = str(caught.value.facts.get("reason", "是"))
            assert any("\u4e00" <= letter <= "\u9fff" for letter in reason), f"{reason}\n{wrong.text[-300:]}"
            tally.count("reasons read")
    finally:
        set_language(None)


@pytest.mark.case("C6")
def test_tags_of_every_kind_run_nothing(tmp_path: Path, tally: Tally) -> None:
    values, canary = whole_recipe(), tmp_path / "canary"
    for _ in range(tally.amount(1, 20) * len(TAGS)):
        wrong = tagged(tally.random, values, str(canary))
        examine(wrong, refusal(wrong, tmp_path / "recipe.yaml"))
        assert not canary.exists()
        tally.count("tagged recipes")


@pytest.mark.case("C6")
def test_a_few_lines_that_stand_for_billions_of_values_are_refused_at_once(tally: Tally) -> None:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    good = "model: {base: m}\ndata: {sources: [{path: a}]}\nstages: [{name: s}]\n"
    for width, merge in ((10, False), (10, True), (2, False), (2, True), (100, False), (100, True)):
        lines = ["l0: &l0 {a: b, c: d}"]
        for level in range(1, 24):
            inner = ", ".join([f"*l{level - 1}"] * width)
            lines.append(f"l{level}: &l{level} {{<<: [{inner}]}}" if merge else f"l{level}: &l{level} [{inner}]")
        started = time.monotonic()
        with pytest.raises(TunesmithError) as caught:
            parse_recipe(good + "\n".join(lines))
        assert caught.value.code == "recipe.broken_yaml" and time.monotonic() - started < 5
        tally.count("recipes that unfold without end")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most) / 1024
    assert grown < 200, f"{grown:.0f} MB"


@pytest.mark.case("C6")
def test_what_is_no_recipe_file(tmp_path: Path, tally: Tally) -> None:
    large = tmp_path / "rows.jsonl"
    large.write_bytes(b"x: 1\n" * 300_000)
    wrong: dict[str, Path] = {"recipe.too_large": large, "recipe.missing_file": tmp_path}
    for code, path in wrong.items():
        with pytest.raises(TunesmithError) as caught:
            load_recipe(path)
        assert caught.value.code == code
    for _ in range(tally.amount(50, 1000)):
        path = tmp_path / "random.yaml"
        path.write_bytes(tally.random.randbytes(tally.random.randrange(1, 200)))
        with pytest.raises(TunesmithError):
            load_recipe(path)
        tally.count("files of random bytes")


NOWHERE = [
    "~nobody-of-this-name/rows.jsonl",
    "x" * 300 + ".jsonl",
    "a\x00b.jsonl",
    "/" + "y/" * 3000,
    "",
    "\ud7ff.jsonl",
]


@pytest.mark.case("C6")
@pytest.mark.parametrize("place", ["data.sources.0.path", "model.base"])
def test_paths_that_nothing_can_stand_at(tmp_path: Path, tally: Tally, place: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 9)
    for path in NOWHERE:
        arguments = ["data", str(tmp_path / "spoilt.yaml"), "--runs", str(tmp_path / "runs"), "--json"]
        model, source = (path, "rows.jsonl") if place == "model.base" else (f"{tmp_path}/none", path)
        spoilt = {"model": {"base": model}, "data": {"sources": [{"path": source}]}, "stages": [{"name": "s"}]}
        (tmp_path / "spoilt.yaml").write_text(yaml.safe_dump(spoilt, allow_unicode=True), "utf-8")
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2, result.output
        assert json.loads(result.stdout)["error"]["code"] != "core.unexpected"
        tally.count("odd paths")
