"""The recipe as a whole: budgets, descriptions, hashes, the lock file and the schema for editors."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, ValidationError

from tunesmith.recipe.identity import identity, source_hashes
from tunesmith.recipe.load import parse_recipe, recipe_schema
from tunesmith.recipe.recipe import Recipe
from tunesmith.recipe.specs.base import Spec

BASE = "model: {base: m}\ndata: {sources: [{path: a.jsonl}]}\nstages: [{name: s}]\n"


def specs_below(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        waiting = [field.annotation]
        while waiting:
            each = waiting.pop()
            if isinstance(each, type) and issubclass(each, BaseModel):
                yield from specs_below(each)
            waiting.extend(get_args(each))


SPECS = sorted(set(specs_below(Recipe)), key=lambda spec: spec.__name__)


def test_every_spec_of_the_package_is_reached() -> None:
    every = set(_subclasses(Spec))
    assert {each for each in every if not each.__subclasses__()} <= set(SPECS) <= every, (
        "bases are in what extends them"
    )


def _subclasses(spec: type[Spec]) -> Iterator[type[Spec]]:
    for each in spec.__subclasses__():
        yield each
        yield from _subclasses(each)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.__name__)
def test_a_spec_is_small_strict_and_described(spec: type[BaseModel]) -> None:
    assert len(spec.model_fields) <= 20
    config = spec.model_config
    assert config.get("frozen") and config.get("strict") and config.get("extra") == "forbid"
    for name, field in spec.model_fields.items():
        sentence = field.description or ""
        assert sentence.endswith(".") and len(sentence) <= 160, f"{spec.__name__}.{name}: {sentence!r}"
    assert (spec.__doc__ or "").strip()


def test_specs_cannot_be_changed_afterwards() -> None:
    recipe = parse_recipe(BASE)
    with pytest.raises(ValidationError):
        recipe.stages[0].train.epochs = 4  # type: ignore[misc]


def leaves(value: object) -> int:
    if isinstance(value, dict):
        return sum(map(leaves, value.values())) if value else 1
    if isinstance(value, list):
        return sum(map(leaves, value)) if value else 1
    return 1


def test_the_lock_of_a_one_stage_run_has_at_most_90_leaves() -> None:
    full = parse_recipe(BASE, ["goal.target={}", "stages.0.adapt={kind: lora}"])
    assert leaves(yaml.safe_load(full.as_yaml())) <= 90


def test_a_setting_of_few_recipes_stands_in_the_lock_where_it_is_set() -> None:
    assert "dropout" not in yaml.safe_load(parse_recipe(BASE).as_yaml())["model"]
    for stated in ("own", 0.1, 0.0):
        lock = parse_recipe(BASE, [f"model.dropout={stated}"]).as_yaml()
        assert yaml.safe_load(lock)["model"]["dropout"] == stated
        assert parse_recipe(lock).model.dropout == stated


def test_the_lock_reads_back_as_the_same_recipe() -> None:
    draw = random.Random(5)
    words = [
        "1e5",
        "12345e67",
        "7.",
        "010",
        "1:30",
        "2024-01-02",
        "yes",
        "null",
        "~",
        "0x1f",
        "=",
        "<<",
        "-",
        ".5",
        ".inf",
    ]
    words += [
        "# x",
        "a: b",
        "'",
        '"',
        "我的 🎻",
        "\u2028",
        "%x",
        "*a",
        "&a",
        "!x",
        "[",
        "{",
        "1_000",
        "+2e-4",
        "a\nb\n",
        " a ",
    ]
    for word in words:
        recipe = parse_recipe(BASE).model_copy(
            update={"model": parse_recipe(BASE).model.model_copy(update={"base": word, "revision": word})}
        )
        assert parse_recipe(recipe.as_yaml()) == recipe, word
        assert yaml.safe_load(recipe.as_yaml())["model"]["base"] == word, "another reader sees the same text"
    for _ in range(200):
        rate = draw.choice([10.0 ** draw.uniform(-12, 3), float(draw.randrange(1, 99))])
        recipe = parse_recipe(BASE, [f"stages.0.train.learning_rate={rate!r}"])
        assert parse_recipe(recipe.as_yaml()) == recipe and recipe.stages[0].train.learning_rate == rate


def test_equal_recipes_have_equal_identities() -> None:
    written = parse_recipe(
        "# other order, other style, defaults written out\nstages:\n- train: {epochs: 3.0, learning_rate: 2e-4}\n"
        "  name: s\ndata:\n  sources:\n  - layout: auto\n    path: 'a.jsonl'\nmodel: {dtype: auto, base: m}\n"
    )
    short = parse_recipe(BASE, ["stages.0.train.learning_rate=0.0002"])
    assert written == short and written.as_json() == short.as_json()
    known = identity(short, {"data.sources.0 (a.jsonl)": "1"})
    assert known == identity(written, {"data.sources.0 (a.jsonl)": "1"})
    others = identity(short, {"data.sources.0 (a.jsonl)": "2"}), identity(parse_recipe(BASE, ["serve.port=9"]), {})
    assert len({known, *others}) == 3


def test_a_register_beside_a_file_is_a_source_too(tmp_path: Path) -> None:
    recipe = parse_recipe(BASE)
    (tmp_path / "a.jsonl").write_text("{}\n")
    alone = source_hashes(recipe, tmp_path)
    (tmp_path / "dataset_info.json").write_text("{}")
    first = source_hashes(recipe, tmp_path)
    (tmp_path / "dataset_info.json").write_text('{"a": {"file_name": "a.jsonl"}}')
    second = source_hashes(recipe, tmp_path)
    assert len(alone) == 1 and first.keys() == second.keys() == {*alone, "data.sources.0 (dataset_info.json)"}
    assert len({identity(recipe, each) for each in (alone, first, second)}) == 3


def test_a_hash_is_the_same_in_every_version_until_a_setting_changes() -> None:
    """Runs are found again by this hash: a new default or field changes it, and this line with it, knowingly."""
    value = parse_recipe(BASE).as_json()
    clean = '{"exact_duplicates":true,"near_duplicates":null,"normalize":true,"semantic_duplicates":null}'
    assert value.startswith(f'{{"data":{{"augment":null,"benchmarks":null,"clean":{clean},"rows":"chat",')
    assert '"learning_rate":null' in value and ": " not in value


def test_the_schema_accepts_what_loads_and_names_what_does_not() -> None:
    schema = recipe_schema()
    validator = jsonschema.Draft202012Validator(dict(schema))
    validator.check_schema(dict(schema))
    validator.validate(yaml.safe_load(BASE))
    validator.validate(yaml.safe_load(parse_recipe(BASE).as_yaml()))
    for wrong in (
        {"model": {"base": 3}},
        {"modle": {"base": "m"}},
        {"stages": []},
        {"stages": [{"name": "s", "train": {"epochs": 0}}]},
        {"stages": [{"name": "S S"}]},
    ):
        assert list(validator.iter_errors({**yaml.safe_load(BASE), **wrong})), wrong
    properties = schema["properties"]
    assert isinstance(properties, dict) and all(each.get("description") for each in properties.values())


def test_the_lock_states_every_default_and_no_table_that_is_not_there() -> None:
    stage = yaml.safe_load(parse_recipe(BASE).as_yaml())["stages"][0]
    assert not {"penalties", "replay", "groups"} & stage.keys() and stage["train"]["max_steps"] is None
    stated = parse_recipe(BASE, ["stages.0.replay={sources: [{path: o.jsonl}]}", "stages.0.penalties={l2: 1.0}"])
    stage = yaml.safe_load(stated.as_yaml())["stages"][0]
    assert stage["replay"]["share"] == 0.2 and stage["penalties"]["l1"] is None and "ewc" not in stage["penalties"]
    assert parse_recipe(stated.as_yaml()) == stated
