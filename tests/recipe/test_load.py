"""Strict loading: what a recipe says is what it means, or it is refused with the place and a way out."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tunesmith.core.errors import TunesmithError
from tunesmith.messages import LANGUAGES, render, set_language
from tunesmith.recipe.load import load_recipe, parse_recipe
from tunesmith.recipe.recipe import Recipe
from tunesmith.recipe.specs.adapt import FullSpec, LoraSpec
from tunesmith.recipe.specs.objectives import SupervisedSpec

MODEL = "model: {base: m}\n"
DATA = "data: {sources: [{path: a.jsonl}]}\n"
STAGES = "stages: [{name: s}]\n"
BASE = MODEL + DATA + STAGES


def stage(settings: str) -> str:
    return f"{MODEL}{DATA}stages: [{{name: s, {settings}}}]\n"


def refused(text: str, *overrides: str) -> TunesmithError:
    """The error of a recipe, after both languages have put it in words."""
    with pytest.raises(TunesmithError) as error:
        parse_recipe(text, overrides)
    for language in LANGUAGES:
        render(error.value, language)
    return error.value


def test_the_shortest_recipe() -> None:
    recipe = parse_recipe(BASE)
    assert recipe.stages[0].adapt == LoraSpec() and recipe.stages[0].train.epochs == 3.0
    assert recipe.data.sources[0].layout == "auto" and recipe.serve.port == 8000


UNKNOWN = {
    "evalute: {}": ("evalute", "evaluate"),
    "goal: {target: {metrik: x}}": ("goal.target.metrik", "metric"),
    "ship: {parity: {top1_gguf: 0.9}}": ("ship.parity.top1_gguf", "top1_gguf_f16"),
    "serve: {prot: 1}": ("serve.prot", "port"),
    "zzzzzz: 1": ("zzzzzz", "data"),
}


@pytest.mark.parametrize("line", UNKNOWN)
def test_an_unknown_key_names_the_nearest(line: str) -> None:
    error = refused(f"{BASE}{line}\n")
    key, nearest = UNKNOWN[line]
    assert (error.code, error.facts["key"], error.facts["nearest"]) == ("recipe.unknown_key", key, nearest)
    assert nearest in str(error.facts["valid"]).split(", ")


def test_an_unknown_key_comes_before_what_it_causes() -> None:
    error = refused("model: {bse: m}\ndata: {sources: [{pth: a}]}\n" + STAGES)
    assert (error.facts["key"], error.facts["nearest"]) == ("model.bse", "base")
    error = refused(f"{MODEL}data: {{sources: [{{path: a}}, {{path: b, nam: c}}]}}\n{STAGES}")
    assert (error.facts["key"], error.facts["nearest"]) == ("data.sources.1.nam", "name")


def test_a_choice_of_specs_names_the_settings_of_the_chosen_one() -> None:
    error = refused(stage("adapt: {kind: lora, rnk: 3}"))
    assert (error.facts["key"], error.facts["nearest"]) == ("stages.0.adapt.rnk", "rank")
    error = refused(stage("adapt: {kind: full, rank: 3}"))
    assert error.facts["key"] == "stages.0.adapt.rank" and error.facts["valid"] == "kind", "full has no rank"


VALUES = {
    "train: {epochs: 0}": ("stages.0.train.epochs", "must be greater than 0"),
    "train: {max_steps: 1e3}": ("stages.0.train.max_steps", "whole number"),
    "train: {max_steps: true}": ("stages.0.train.max_steps", "whole number"),
    "train: {batch_size: '8'}": ("stages.0.train.batch_size", "whole number"),
    "train: {batch_size: atuo}": ("stages.0.train.batch_size", "a whole number, or must be one of 'auto'"),
    "train: {batch_size: 0}": ("stages.0.train.batch_size", "at least 1"),
    "train: {packing: 1}": ("stages.0.train.packing", "true or false"),
    "train: {learning_rate: .inf}": ("stages.0.train.learning_rate", "finite"),
    "train: {learning_rate: .nan}": ("stages.0.train.learning_rate", "finite"),
    "train: {epochs: 1e999}": ("stages.0.train.epochs", "finite"),
    "train: {warmup_ratio: 1}": ("stages.0.train.warmup_ratio", "less than 1"),
    "train: {optimizer: adam}": ("stages.0.train.optimizer", "'adamw', 'sgd'"),
    "train: [1]": ("stages.0.train", "table of settings"),
    "train: null": ("stages.0.train", "table of settings"),
    "adapt: {kind: lora, target_modules: atention}": ("stages.0.adapt.target_modules", "'all-linear', 'attention'"),
    "adapt: {kind: lora, rank: 2000}": ("stages.0.adapt.rank", "at most 1024"),
    "adapt: {kind: lora, target_modules: []}": ("stages.0.adapt.target_modules", "one of"),
    "adapt: {kind: lora-experts, new_experts: 4, top_k: 5}": ("stages.0.adapt", "more experts than there are"),
    "adapt: {kind: lora-experts, start: x, update: [-1]}": ("stages.0.adapt", "counted from 0"),
    "adapt: {kind: lora-experts, start: x, remove: [-1], new_experts: 1}": ("stages.0.adapt", "counted from 0"),
    "objective: {kind: distill, teacher: ''}": ("stages.0.objective.teacher", "1 or more characters"),
    "adapt: {kind: lroa}": ("stages.0.adapt.kind", "'full', 'subset', 'lora'"),
}


@pytest.mark.parametrize("settings", VALUES)
def test_a_value_that_does_not_fit_is_named_with_its_place(settings: str) -> None:
    error = refused(stage(settings))
    key, words = VALUES[settings]
    assert error.code == "recipe.bad_value" and error.facts["key"] == key
    assert words in str(error.facts["reason"]), error.facts["reason"]


def test_reasons_are_in_the_users_language() -> None:
    set_language("zh")
    assert refused(stage("train: {epochs: 0}")).facts["reason"] == "必须大于 0"
    assert refused(MODEL + "data: {sources: [{path: a}], split: {train: 0.5}}\n" + STAGES).facts["reason"] == (
        "train、validation 与 test 之和必须为 1"
    )


def test_a_long_value_is_shown_short() -> None:
    error = refused(f"{BASE}name: {'x' * 5000}\n")
    assert error.code == "recipe.bad_value" and len(str(error.facts["given"])) < 100


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (DATA + STAGES, "model"),
        (MODEL + DATA, "stages"),
        ("model: {}\n" + DATA + STAGES, "model.base"),
        (stage("adapt: {rank: 4}"), "stages.0.adapt.kind"),
    ],
)
def test_what_is_missing_is_named(text: str, key: str) -> None:
    error = refused(text)
    assert (error.code, error.facts["key"]) == ("recipe.missing_key", key)


@pytest.mark.parametrize("name", ["a/b", "a\\b", "", ".", "..", "x" * 81, "a\tb"])
def test_names_that_are_no_folder(name: str) -> None:
    assert refused(BASE, f"name={name!r}").code == "recipe.bad_value"


# --------------------------------------------------------------------------------------------------- YAML


@pytest.mark.parametrize("written", ["2e-4", "2.0e-4", "0.0002", "2E-4", ".2e-3", "+2e-4", "2_0e-5"])
def test_numbers_as_people_write_them(written: str) -> None:
    assert parse_recipe(stage(f"train: {{learning_rate: {written}}}")).stages[0].train.learning_rate == 2e-4


@pytest.mark.parametrize("text", ["2024-13-45", "2024-01-02", "12:30:00", "0x1f", "010", "1e5x", "2024-01-02 03:04:05"])
def test_yaml_does_not_guess(text: str) -> None:
    assert parse_recipe(f"{BASE}name: {text}\n").name == text


def test_a_port_of_hours_and_minutes_is_no_number() -> None:
    assert refused(f"{BASE}serve: {{port: 1:30}}\n").facts["key"] == "serve.port"


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        (BASE + MODEL, "model", 4),
        (stage("train: {epochs: 1, epochs: 2}"), "epochs", 3),
        (f"{BASE}? {{a: 1, a: 2}}\n: 3\n", "a", 4),
    ],
)
def test_a_key_that_stands_twice(text: str, key: str, line: int) -> None:
    error = refused(text)
    assert (error.code, error.facts["key"], error.facts["line"]) == ("recipe.duplicate_key", key, line)


def test_a_merged_table_is_no_duplicate() -> None:
    recipe = parse_recipe(
        f"{MODEL}data: {{sources: [&a {{path: a, licence: MIT}}, {{<<: *a, path: b}}]}}\n{STAGES}",
        ["data.sources.0.licence=CC0-1.0"],
    )
    assert [(source.path, source.licence) for source in recipe.data.sources] == [("a", "CC0-1.0"), ("b", "MIT")]


def test_setting_one_place_leaves_its_alias_alone() -> None:
    text = f"{MODEL}{DATA}{STAGES}evaluate: &e {{}}\nserve: {{}}\ngoal: {{need: &n [style], tried: []}}\n"
    assert parse_recipe(text, ["goal.need.0=format"]).goal.need == ["format"]
    text = f"{MODEL}data: {{sources: [&a {{path: a}}, *a]}}\n{STAGES}"
    assert [each.name for each in parse_recipe(text, ["data.sources.0.name=x"]).data.sources] == ["x", ""]


BROKEN = [
    "",
    "[1]",
    "x",
    "\tx: 1",
    "[" * 3000,
    "name: \x00",
    f"{BASE}name: !!python/object:os.system x\n",
    f"{BASE}name: !!binary aGVsbG8=\n",
    f"{BASE}name: !!set {{a, b}}\n",
    f"{BASE}name: &a [*a]\n",
    f"{BASE}? [a, b]\n: c\n",
    f"{BASE}? {{a: b}}\n: c\n",
    f"{BASE}2: c\n",
    f"{BASE}~: c\n",
    f"{BASE}yes: c\n",
    f"{BASE}runtime: {{threads: {'9' * 5000}}}\n",
    f'{BASE}name: "\\ud800"\n',
    f"{BASE}---\n{BASE}",
]


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_no_recipe_is_refused_without_a_traceback(text: str) -> None:
    assert refused(text).code == "recipe.broken_yaml"


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "配方.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    assert load_recipe(path, ["name=小"]).name == "小"
    path.write_bytes(BASE.replace("\n", "\r\n").encode())
    assert load_recipe(path) == parse_recipe(BASE)
    path.write_bytes(b"name: \xff")
    for each, code in {path: "broken_yaml", tmp_path: "missing_file", tmp_path / "no": "missing_file"}.items():
        with pytest.raises(TunesmithError, match=code):
            load_recipe(each)


# ---------------------------------------------------------------------------------------------- overrides


def test_overrides_reach_every_place() -> None:
    recipe = parse_recipe(
        BASE,
        [
            "stages.0.train.learning_rate=1e-3",
            "stages.0.adapt={kind: full}",
            "data.split.seed=7",
            "name==a=b",
            "data.sources.0.path=我的 数据.csv",
            "evaluate.max_rows=3",
            "evaluate.max_rows=",
            "stages.0.name='1e5'",
        ],
    )
    assert recipe.stages[0].train.learning_rate == 1e-3 and recipe.stages[0].adapt == FullSpec()
    assert recipe.data.split.seed == 7 and recipe.name == "=a=b" and recipe.data.sources[0].path == "我的 数据.csv"
    assert recipe.evaluate.max_rows is None, "nothing after the sign is null" and recipe.stages[0].name == "1e5"


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("a", "bad_override"),
        ("=1", "bad_override"),
        ("a..b=1", "bad_override"),
        ("stages.9.name=x", "bad_override"),
        ("stages.-1.name=x", "bad_override"),
        ("stages.².name=x", "bad_override"),
        ("stages.x=1", "bad_override"),
        ("model.base.x=3", "bad_override"),
        ("name=[", "broken_yaml"),
        ("name={a: 1, a: 2}", "duplicate_key"),
        ("stages.0.train.epochs=2024-13-45", "bad_value"),
        ("stages.0.adapt.rank=8", "missing_key"),
        ("serve.port=", "bad_value"),
        ("model=3", "bad_value"),
        ("modle.base=x", "unknown_key"),
        ("stages.0.trian.epochs=1", "unknown_key"),
    ],
)
def test_overrides_that_cannot_be(override: str, code: str) -> None:
    assert refused(BASE, override).code == f"recipe.{code}"


def test_parsing_never_changes_its_input_and_is_a_function() -> None:
    assert parse_recipe(BASE, ["name=x"]) == parse_recipe(BASE, ["name=x"]) != parse_recipe(BASE)
    assert isinstance(parse_recipe(BASE), Recipe)


def test_an_objective_without_a_kind_is_supervised() -> None:
    assert parse_recipe(stage("objective: {label_smoothing: 0.1}")).stages[0].objective == SupervisedSpec(
        label_smoothing=0.1
    )
    assert refused(stage("objective: {temperature: 2.0}")).code == "recipe.unknown_key"
    assert refused(stage("objective: 3")).code == "recipe.bad_value"


def test_stages_are_set_by_their_place() -> None:
    text = RECIPE_OF_STAGES
    recipe = parse_recipe(text, ["stages.0.train.epochs=1", "stages.1.data.split.seed=7"])
    assert [stage.train.epochs for stage in recipe.stages] == [1, 3, 3]
    assert recipe.stages[1].data is not None and recipe.stages[1].data.split.seed == 7
    locked = yaml.safe_load(recipe.as_yaml())["stages"]
    assert ["data" in each for each in locked] == [False, True, False], "a stage's own rows stand in the lock"
    assert parse_recipe(recipe.as_yaml()) == recipe


RECIPE_OF_STAGES = (
    "model: {base: m}\ndata: {sources: [{path: a.jsonl}]}\n"
    "stages: [{name: one}, {name: two, data: {sources: [{path: b.jsonl}]}}, {name: three}]\n"
)


@pytest.mark.parametrize(
    ("override", "code", "key"),
    [
        ("stages.2.name=one", "recipe.bad_value", "stages"),
        ("stages.2.name=evaluate", "recipe.bad_value", "stages"),
        ("stages.1.data.test_sources=[]", "recipe.unknown_key", "stages.1.data.test_sources"),
        ("stages.1.data.split={train: 0.5, validation: 0.4}", "recipe.bad_value", "stages.1.data.split"),
        ("stages.1.data.split.test=0.1", "recipe.unknown_key", "stages.1.data.split.test"),
    ],
)
def test_a_wrong_stage_is_refused_with_its_place(override: str, code: str, key: str) -> None:
    with pytest.raises(TunesmithError) as error:
        parse_recipe(RECIPE_OF_STAGES, [override])
    assert (error.value.code, error.value.facts["key"]) == (code, key)
