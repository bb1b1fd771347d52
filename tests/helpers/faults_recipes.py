"""Recipes that must be refused: a whole valid one with one thing wrong, and what the refusal has to say."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import get_args

from pydantic import BaseModel

from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.plain_yaml import write_yaml
from tunesmith.recipe.recipe import Recipe

Values = dict[str, object]
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Wrong:
    """A recipe with one fault. `codes` are those that fit, `place` where it is, `meant` what a misspelt key meant."""

    kind: str
    text: str
    codes: frozenset[str]
    place: str = ""
    meant: str = ""
    overrides: tuple[str, ...] = ()
    below: bool = False
    """Whether the place may also be one inside of it."""


@dataclass(frozen=True)
class Leaf:
    """One setting of the recipe: where, in which spec, and what kinds of value it takes."""

    path: Path
    value: object
    types: frozenset[object] = field(default_factory=frozenset)

    @property
    def numeric(self) -> bool:
        """Whether it takes a number."""
        return bool({int, float} & self.types)


def whole_recipe() -> Values:
    """A valid recipe in which every setting stands."""
    text = "model: {base: m}\ndata: {sources: [{path: a.jsonl}, {path: b}]}\nstages: [{name: s}]\n"
    sets = [
        "goal.target={metric: rouge_l}",
        "goal.need=[style]",
        "stages.0.adapt={kind: lora, target_modules: [q_proj]}",
        "data.test_sources=[{path: c.csv, columns: {prompt: q}}]",
    ]
    values = parse_recipe(text, sets).model_dump(mode="json")
    assert isinstance(values, dict)
    return values


def leaves(values: object, spec: object = Recipe, path: Path = ()) -> Iterator[Leaf]:
    """Every setting of a recipe."""
    for name, value in values.items() if isinstance(values, dict) else ():
        info = _spec_of(spec, values).model_fields[name]
        here = (*path, name)
        inner = _specs_in(info.annotation)
        if isinstance(value, dict) and inner:
            yield from leaves(value, info.annotation, here)
        elif isinstance(value, list) and inner:
            for place, each in enumerate(value):
                yield from leaves(each, info.annotation, (*here, place))
        else:
            yield Leaf(here, value, frozenset(_types_in(info.annotation)))


def tables(values: object, path: Path = ()) -> Iterator[Path]:
    """Where tables of settings stand: `columns` is none, it takes any key."""
    if isinstance(values, dict) and (not path or path[-1] != "columns"):
        yield path
        for name, value in values.items():
            yield from tables(value, (*path, name))
    elif isinstance(values, list):
        for place, value in enumerate(values):
            yield from tables(value, (*path, place))


def _spec_of(annotation: object, value: object) -> type[BaseModel]:
    assert isinstance(value, dict)
    fitting = [spec for spec in _specs_in(annotation) if set(value) <= set(spec.model_fields)]
    return fitting[0]


def _specs_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _specs_in(part)]


def _types_in(annotation: object) -> set[object]:
    parts = get_args(annotation)
    if not parts or isinstance(parts[0], str):
        return {annotation} if not parts else {str}
    return set().union(*(_types_in(part) for part in parts))


def at(values: Values, path: Path) -> object:
    """What stands at a place."""
    found: object = values
    for part in path:
        found = found[part]  # type: ignore[index]
    return found


def changed(values: Values, path: Path, value: object) -> Values:
    """A copy with another value at a place."""
    copied = copy.deepcopy(values)
    at(copied, path[:-1])[path[-1]] = value  # type: ignore[index]
    return copied


def dotted(path: Sequence[str | int]) -> str:
    """stages.0.train.seed"""
    return ".".join(map(str, path))


class Raw(str):
    """Text that stands in the file as it is."""


def emit(value: object) -> str:
    """The value in YAML's flow form, where `Raw` text stays."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)}: {emit(each)}" for key, each in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(emit, value)) + "]"
    if isinstance(value, float):
        return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(value), repr(value))
    return json.dumps(value, ensure_ascii=False)


def written(draw: random.Random, values: Values) -> str:
    """In either form."""
    try:
        return write_yaml(values) if draw.random() < 0.5 else emit(values)
    except Exception:  # what YAML's own writer cannot write
        return emit(values)


# ------------------------------------------------------------------------------------------------- kinds of faults

FOREIGN = ["lr", "peft", "学习率", "训练", "数据来源", "🎻", "__class__", "$ref", "_", "0", "epoch s", "x" * 300, "",
           "SEED", "Train", "per_device_train_batch_size", "lora_r", "cutoff_len", "model_name_or_path"]  # fmt: skip


def unknown_key(draw: random.Random, values: Values) -> Wrong:
    path = draw.choice(list(tables(values)))
    key = draw.choice(FOREIGN)
    value = draw.choice([1, "x", None, {}, [], True])
    place = dotted((*path, key))
    return Wrong("unknown", written(draw, changed(values, (*path, key), value)), frozenset({"unknown_key"}), place)


def misspelt_key(draw: random.Random, values: Values) -> Wrong:
    path = draw.choice([each for each in tables(values) if set(at(values, each)) - {"kind"}])  # type: ignore[call-overload]
    table = at(values, path)
    assert isinstance(table, dict)
    name = draw.choice([each for each in table if len(each) > 3 and each != "kind"] or list(table))
    odd = name
    while odd in table or odd in ("kind", "rank"):
        odd = _slip(draw, name)
    renamed = {odd if key == name else key: value for key, value in table.items()}
    whole = changed(values, path, renamed) if path else renamed
    return Wrong("misspelt", written(draw, whole), frozenset({"unknown_key"}), dotted((*path, odd)), meant=name)


def _slip(draw: random.Random, word: str) -> str:
    place = draw.randrange(len(word))
    letter = draw.choice("abcdefghijklmnopqrstuvwxyz_")
    slips = [
        word[:place] + word[place + 1 :],
        word[:place] + word[place] + word[place:],
        word[:place] + letter + word[place + 1 :],
        word[:place] + letter + word[place:],
        word[:place] + word[place + 1 : place + 2] + word[place : place + 1] + word[place + 2 :],
    ]
    return draw.choice(slips)


WRONG_VALUES: dict[type, list[object]] = {
    bool: ["yes", "true", 1, 0, 0.5, None, [], {}],
    int: ["5", "many", 1.5, True, [3], {"a": 3}, "1e3", "五"],
    float: ["5", "viel", True, [0.3], {"a": 3}, "0,1", "１"],
    str: [5, 1.5, True, ["x"], {"a": "x"}],
    list: ["x", 5, True, {"0": "x"}, None, [5], [None], [["x"]]],
    dict: ["x", 5, True, ["x"], None, {"prompt": 5}, {"prompt": ["x"]}],
    type(None): [[1], {"a": 1}],
}


def wrong_type(draw: random.Random, values: Values) -> Wrong:
    leaf = draw.choice(list(leaves(values)))
    value = draw.choice(WRONG_VALUES[type(leaf.value)])
    text = written(draw, changed(values, leaf.path, value))
    codes = frozenset({"bad_value", "missing_key", "unknown_key"})
    return Wrong("wrong type", text, codes, dotted(leaf.path), below=True)


def wrong_table(draw: random.Random, values: Values) -> Wrong:
    path = draw.choice([each for each in tables(values) if each])
    text = written(draw, changed(values, path, draw.choice([5, "x", True, [1], 2.5])))
    return Wrong("wrong type", text, frozenset({"bad_value", "missing_key"}), dotted(path), below=True)


NUMBERS = [".nan", ".inf", "-.inf", "1e999", "-1e999", "1" + "0" * 31, "-1", "-1" + "0" * 30, "9" * 400, "-0.5",
           "1e308", "9" * 4000, "1e31", "1_0" + "0" * 31]  # fmt: skip


def wrong_number(draw: random.Random, values: Values) -> Wrong:
    leaf = draw.choice([each for each in leaves(values) if each.numeric])
    number = Raw(draw.choice(NUMBERS))
    text = emit(changed(values, leaf.path, number))
    return Wrong("number", text, frozenset({"bad_value"}), dotted(leaf.path))


CONTRADICTIONS: list[tuple[dict[str, object], str, str]] = [
    ({"data.split": {"train": 0.7, "validation": 0.7, "test": 0.15}}, "recipe.bad_value", "data.split"),
    ({"data.split": {"train": 0.1, "validation": 0.1, "test": 0.1}}, "recipe.bad_value", "data.split"),
    ({"stages.0.adapt": {"kind": "full", "rank": 8}}, "recipe.unknown_key", "stages.0.adapt.rank"),
    ({"stages.0.adapt": {"rank": 8}}, "recipe.missing_key", "stages.0.adapt.kind"),
    ({"stages.0.adapt": {"kind": "qlora"}}, "recipe.bad_value", "stages.0.adapt.kind"),
    ({"stages.0.objective": {"kind": "dpo"}}, "recipe.bad_value", "stages.0.objective.kind"),
    ({"stages.0.train.batch_size": "auto", "stages.0.train.packing": False}, "compat.auto_batch_unpacked", ""),
    ({"data.rows": "preference"}, "compat.rows", ""),
    ({"data.rows": "text"}, "compat.rows", ""),
    ({"stages.0.train.early_stopping": {"metric": "acuracy"}}, "compat.stopping_metric", ""),
    ({"goal.target": {"metric": "json_exact"}, "evaluate.metrics": ["rouge_l"]}, "compat.target_metric", ""),
    ({"goal.target": {"metric": "rouge_L"}}, "compat.target_metric", ""),
    ({"evaluate.metrics": []}, "recipe.bad_value", "evaluate.metrics"),
    ({"evaluate.metrics": ["rogue_l"]}, "recipe.bad_value", "evaluate.metrics.0"),
    ({"ship.formats": []}, "recipe.bad_value", "ship.formats"),
    ({"ship.formats": ["gguf"]}, "recipe.bad_value", "ship.formats.0"),
    ({"data.sources": []}, "recipe.bad_value", "data.sources"),
    ({"stages": []}, "recipe.bad_value", "stages"),
    ({"stages": [{"name": "a"}, {"name": "a"}]}, "recipe.bad_value", "stages"),
    ({"name": ".."}, "recipe.bad_value", "name"),
    ({"name": "a/b"}, "recipe.bad_value", "name"),
    ({"model.dtype": "bf16"}, "recipe.bad_value", "model.dtype"),
    ({"stages.0.train.optimizer": "adam"}, "recipe.bad_value", "stages.0.train.optimizer"),
    ({"runtime.device": "gpu"}, "recipe.bad_value", "runtime.device"),
    ({"stages.0.train.warmup_ratio": 1.0}, "recipe.bad_value", "stages.0.train.warmup_ratio"),
]


def contradiction(draw: random.Random, values: Values) -> Wrong:
    settings, code, place = draw.choice(CONTRADICTIONS)
    text = emit(values)
    for key, value in settings.items():
        parts = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
        values = changed(values, parts, value)
        text = written(draw, values)
    return Wrong("contradiction", text, frozenset({code}), place)


def doubled_key(draw: random.Random, values: Values) -> Wrong:
    path = draw.choice([each for each in tables(values) if at(values, each)])
    table = at(values, path)
    assert isinstance(table, dict)
    key = draw.choice(list(table))
    again = draw.choice([table[key], None, 5])
    twice = Raw(emit(table)[:-1] + f", {json.dumps(key)}: {emit(again)}" + "}")
    text = emit(changed(values, path, twice)) if path else str(twice)
    return Wrong("doubled key", text, frozenset({"duplicate_key"}), key)


TAGS = [
    "!!python/object/apply:os.system ['touch {canary}']",
    "!!python/object/new:subprocess.Popen [[touch, '{canary}']]",
    "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{canary}']]",
    "!!python/name:os.system ''",
    "!!python/module:os ''",
    "!!python/tuple [1, 2]",
    "!!python/object:collections.OrderedDict {{}}",
    "!!binary aGVsbG8=",
    "!!timestamp 2024-01-01",
    "!!set {{a, b}}",
    "!!omap [a: 1]",
    "!custom x",
    "!!js/function 'function () {{}}'",
    "!ruby/object:Gem::Requirement {{}}",
    "!include /etc/passwd",
    "!!unknown 5",
]


def tagged(draw: random.Random, values: Values, canary: str = "canary") -> Wrong:
    leaf = draw.choice(list(leaves(values)))
    value = Raw(draw.choice(TAGS).format(canary=canary))
    return Wrong("tagged", emit(changed(values, leaf.path, value)), frozenset({"broken_yaml"}))


def deep(draw: random.Random, values: Values) -> Wrong:
    leaf = draw.choice(list(leaves(values)))
    depth = draw.choice([3, 60, 150, 190, 210, 400, 900, 1500, 6000])
    value = Raw("[" * depth + "]" * depth) if draw.random() < 0.5 else Raw("{a: " * depth + "1" + "}" * depth)
    codes = frozenset({"broken_yaml", "bad_value", "unknown_key", "missing_key"})
    return Wrong("deep", emit(changed(values, leaf.path, value)), codes)


def unfolding(draw: random.Random, values: Values) -> Wrong:
    """A few lines that stand for billions of values, or for themselves."""
    width, levels = draw.choice([2, 9, 30]), draw.choice([18, 30])
    lines = ["a0: &a0 {x: 1}" if (merge := draw.random() < 0.5) else "a0: &a0 [x]"]
    for level in range(1, levels):
        inner = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} {{<<: [{inner}]}}" if merge else f"a{level}: &a{level} [{inner}]")
    bomb = "\n".join(lines)
    itself = "name: &n [*n]\n" if draw.random() < 0.5 else "goal: &g {problem: *g}\n"
    text = (
        draw.choice([bomb, itself])
        + "\n"
        + write_yaml({key: each for key, each in values.items() if key not in ("name", "goal")})
    )
    return Wrong("unfolding", text, frozenset({"broken_yaml", "unknown_key", "bad_value"}))


def broken_text(draw: random.Random, values: Values) -> Wrong:
    """Cut, with full-width signs of a Chinese keyboard, with tabs, or in a wrong encoding's characters."""
    text = write_yaml(values)
    lines = text.split("\n")
    settings = [number for number, line in enumerate(lines) if ": " in line and "{" not in line and "[" not in line]
    place = draw.choice(settings)
    kind = draw.randrange(5)
    if kind == 0:
        lines[place] = lines[place].replace(": ", "：", 1)
    elif kind == 1:
        lines[place] = "\t" + lines[place]
    elif kind == 2:
        lines[place] += ": x"
    elif kind == 3:
        lines[place] = lines[place].replace(": ", ": [", 1)
    else:
        lines[place] = lines[place].replace(": ", ": \x01", 1)
    codes = frozenset({"broken_yaml", "unknown_key", "bad_value", "missing_key"})
    return Wrong("broken text", "\n".join(lines), codes)


def bad_override(draw: random.Random, values: Values) -> Wrong:
    leaf = draw.choice([each for each in leaves(values) if each.numeric])
    place = dotted(leaf.path)
    cases = [
        (f"{place}=viel", "bad_value", place),
        (f"{place}x=1", "unknown_key", f"{place}x"),
        (f"{place}.a=1", "bad_override" if leaf.value is not None else "bad_value", ""),
        (place, "bad_override", ""),
        (f"{place}=[", "broken_yaml", ""),
        (f"{place}={{a: 1, a: 2}}", "duplicate_key", "a"),
        (f"学习率.{place}=1", "unknown_key", "学习率"),
        (f"stages.7.{place}=1", "bad_override", ""),
        (f"{place}=!!python/name:os.system ''", "broken_yaml", ""),
        (f"{place}=.nan", "bad_value", place),
    ]
    override, code, told = draw.choice(cases)
    return Wrong("override", emit(values), frozenset({code}), told, overrides=(override,), below=True)


KINDS: list[Callable[[random.Random, Values], Wrong]] = [
    unknown_key, misspelt_key, misspelt_key, wrong_type, wrong_type, wrong_table, wrong_number, contradiction,
    doubled_key, tagged, deep, unfolding, broken_text, bad_override,
]  # fmt: skip
