"""Strict loading: a recipe means exactly what it says, or is refused with the place and the nearest valid name."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import get_args

import yaml
from pydantic import BaseModel, ValidationError

from tunesmith.core.errors import TunesmithError
from tunesmith.recipe.recipe import Recipe

_SCIENTIFIC = re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9]*)?[eE][-+]?[0-9]+$")


class _RecipeLoader(yaml.SafeLoader):
    """Safe YAML in which 2e-4 is a number (YAML 1.1 wants 2.0e-4) and a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise TunesmithError(
                    "recipe.duplicate_key", key=str(key), path=self.name, line=key_node.start_mark.line + 1
                )
            seen.add(key)
        return dict(super().construct_mapping(node, deep))


_RecipeLoader.add_implicit_resolver("tag:yaml.org,2002:float", _SCIENTIFIC, list("-+0123456789"))


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply `a.b=value` overrides.

    Errors: recipe.missing_file, recipe.broken_yaml, recipe.duplicate_key and those of `parse_recipe`.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise TunesmithError("recipe.missing_file", path=str(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise TunesmithError("recipe.broken_yaml", path=str(path), reason=str(error)) from error
    return parse_recipe(text, overrides, name=str(path))


def parse_recipe(text: str, overrides: Sequence[str] = (), name: str = "recipe") -> Recipe:
    """A recipe from its text. Errors: recipe.broken_yaml, unknown_key, missing_key, bad_value, bad_override."""
    values = _read_yaml(text, name)
    if not isinstance(values, dict):
        raise TunesmithError("recipe.broken_yaml", path=name, reason="the recipe is not a table of settings")
    for override in overrides:
        _apply(values, override)
    try:
        # Through JSON, because pydantic's strict mode then takes lists and tables for what the file can say.
        return Recipe.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise _first_fault(error) from error


def _read_yaml(text: str, name: str) -> object:
    loader = _RecipeLoader(text)
    loader.name = name
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise TunesmithError("recipe.broken_yaml", path=name, reason=" ".join(str(error).split())) from error
    except RecursionError as error:
        raise TunesmithError("recipe.broken_yaml", path=name, reason="nested too deeply") from error
    finally:
        loader.dispose()


def _apply(values: dict[str, object], override: str) -> None:
    """Set one `a.b.0.c=value` in place; missing tables on the way are made, so that the check names a wrong key."""
    place, equals, text = override.partition("=")
    keys = place.strip().split(".")
    if not equals or not all(keys):
        raise TunesmithError("recipe.bad_override", text=override)
    current: object = values
    for key in keys[:-1]:
        current = _step_into(current, key, override)
    if isinstance(current, dict):
        current[keys[-1]] = _read_yaml(text, f"--set {override}")
    elif isinstance(current, list) and keys[-1].isdigit() and int(keys[-1]) < len(current):
        current[int(keys[-1])] = _read_yaml(text, f"--set {override}")
    else:
        raise TunesmithError("recipe.bad_override", text=override)


def _step_into(current: object, key: str, override: str) -> object:
    if isinstance(current, dict):
        if current.get(key) is None:
            current[key] = {}
        return current[key]
    if isinstance(current, list) and key.isdigit() and int(key) < len(current):
        return current[int(key)]
    raise TunesmithError("recipe.bad_override", text=override)


def _first_fault(error: ValidationError) -> TunesmithError:
    """The first fault in words, unknown keys before others: they often cause the others."""
    faults = error.errors(include_url=False)
    fault = next((each for each in faults if each["type"] == "extra_forbidden"), faults[0])
    place = _place(fault["loc"])
    if fault["type"] == "extra_forbidden":
        *parents, key = place
        valid = sorted(_fields_at(parents))
        nearest = difflib.get_close_matches(key, valid, n=1, cutoff=0.4) or valid[:1]
        return TunesmithError("recipe.unknown_key", key=".".join(place), nearest=nearest[0], valid=", ".join(valid))
    if fault["type"] == "missing":
        return TunesmithError("recipe.missing_key", key=".".join(place))
    given = fault["input"] if isinstance(fault["input"], str | int | float | bool) else type(fault["input"]).__name__
    reason = fault["msg"].removeprefix("Value error, ")
    return TunesmithError("recipe.bad_value", key=".".join(place) or "recipe", reason=reason, given=str(given))


def _place(location: Sequence[int | str]) -> list[str]:
    """The path as the user would write it, without the tags that pydantic adds for a choice of specs."""
    place: list[str] = []
    for part in location:
        if isinstance(part, int) or not place or part in _fields_at(place):
            place.append(str(part))
        elif part == location[-1]:
            place.append(part)
    return place


def _fields_at(place: Sequence[str]) -> set[str]:
    """Names of the settings that may stand at a path of the recipe."""
    models: list[type[BaseModel]] = [Recipe]
    for part in place:
        if not part.isdigit():
            models = [
                found
                for model in models
                if part in model.model_fields
                for found in _models_in(model.model_fields[part].annotation)
            ]
    return {name for model in models for name in model.model_fields}


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]


def recipe_schema() -> Mapping[str, object]:
    """The JSON schema of a recipe, for editors."""
    return Recipe.model_json_schema()
