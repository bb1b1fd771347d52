"""Strict loading: a recipe means exactly what it says, or is refused with the place and the nearest valid name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tunesmith.core.errors import TunesmithError
from tunesmith.core.secrets import holds_secret
from tunesmith.messages import say
from tunesmith.recipe.plain_yaml import read_yaml
from tunesmith.recipe.recipe import Recipe
from tunesmith.recipe.sources_apart import name_apart

_SHOWN_CHARACTERS = 80
_PLACES = {
    "stage_names": "stages",
    "stage_folder": "stages",
    "run_name": "name",
    "run_name_bytes": "name",
    "run_name_signs": "name",
}
"""Where a fault is that the checker finds in the recipe as a whole."""
_MOST_BYTES = 2**20
"""Size of a recipe file; one that somebody wrote has a few thousand bytes."""


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply `a.b=value` overrides.

    Errors: recipe.missing_file, recipe.too_large, recipe.broken_yaml, recipe.duplicate_key, recipe.secret and those of
    `parse_recipe`.
    """
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise TunesmithError("recipe.too_large", path=str(path), megabytes=round(size / 2**20, 1))
        text = path.read_text("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise TunesmithError("recipe.missing_file", path=str(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise TunesmithError("recipe.broken_yaml", path=str(path), reason=str(error)) from error
    for number, line in enumerate(text.splitlines(), 1):  # comments too: a run keeps a copy of the file
        if holds_secret(line):
            raise TunesmithError("recipe.secret", place=f"{path}:{number}")
    return parse_recipe(text, overrides, name=str(path))


def parse_recipe(text: str, overrides: Sequence[str] = (), name: str = "recipe") -> Recipe:
    """A recipe from its text.

    Errors: recipe.broken_yaml, unknown_key, missing_key, bad_value, bad_override, secret.
    """
    values = _separate(read_yaml(text, name), name)
    if not isinstance(values, dict):
        raise TunesmithError("recipe.broken_yaml", path=name, reason=say("recipe.reason_no_table"))
    for override in overrides:
        _apply(values, override)
    _refuse_secrets(values)
    name_apart(values)
    try:
        # Through JSON, because pydantic's strict mode then takes lists and tables for what the file can say.
        return Recipe.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise _first_fault(error, name) from error


def _refuse_secrets(values: object, place: str = "") -> None:
    """A recipe is copied into runs, locks and manifests, and sent to others. Errors: recipe.secret."""
    if isinstance(values, dict):
        for key, value in values.items():
            _refuse_secrets(key, place)
            _refuse_secrets(value, f"{place}.{key}".removeprefix("."))
    elif isinstance(values, list):
        for number, value in enumerate(values):
            _refuse_secrets(value, f"{place}.{number}")
    elif isinstance(values, str) and holds_secret(values):
        raise TunesmithError("recipe.secret", place=place)


def _separate(values: object, name: str) -> object:
    """The same values with nothing shared: setting one place must not change another that YAML made an alias of it."""
    try:
        return json.loads(json.dumps(values))
    except (ValueError, RecursionError) as error:
        raise TunesmithError("recipe.broken_yaml", path=name, reason=say("recipe.reason_too_deep")) from error


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
        current[keys[-1]] = read_yaml(text, f"--set {override}")
    elif isinstance(current, list) and keys[-1].isdecimal() and int(keys[-1]) < len(current):
        current[int(keys[-1])] = read_yaml(text, f"--set {override}")
    else:
        raise TunesmithError("recipe.bad_override", text=override)


def _step_into(current: object, key: str, override: str) -> object:
    if isinstance(current, dict):
        if current.get(key) is None:
            current[key] = {}
        return current[key]
    if isinstance(current, list) and key.isdecimal() and int(key) < len(current):
        return current[int(key)]
    raise TunesmithError("recipe.bad_override", text=override)


def _first_fault(error: ValidationError, name: str) -> TunesmithError:
    """The first fault in words, unknown keys before others: they often cause the others."""
    faults = error.errors(include_url=False)
    fault = next((each for each in faults if each["type"] == "extra_forbidden"), faults[0])
    location = fault["loc"]
    if fault["type"] == "extra_forbidden":
        parents, specs = _walk(location[:-1])
        unknown = str(location[-1])
        valid = sorted({field for spec in specs for field in spec.model_fields})
        nearest = difflib.get_close_matches(unknown, valid, n=1, cutoff=0.4) or valid[:1]
        key = ".".join([*parents, unknown])
        return TunesmithError("recipe.unknown_key", key=key, nearest=nearest[0], valid=", ".join(valid))
    place = ".".join(_walk(location)[0])
    if fault["type"] == "json_invalid":
        too_deep = "recursion" in str(fault.get("ctx", {}).get("error", ""))
        reason = say("recipe.reason_too_deep" if too_deep else "recipe.reason_json_invalid")
        return TunesmithError("recipe.broken_yaml", path=name, reason=reason)
    if fault["type"] in ("missing", "union_tag_not_found"):
        return TunesmithError("recipe.missing_key", key=place if fault["type"] == "missing" else f"{place}.kind")
    given = json.dumps(fault["input"], ensure_ascii=False, default=str)
    shown = given if len(given) <= _SHOWN_CHARACTERS else given[:_SHOWN_CHARACTERS] + " ..."
    if fault["type"] == "union_tag_invalid":
        place, shown = f"{place}.kind", str(fault["ctx"]["tag"])
    # A setting that takes a number or a word has a fault for each.
    alike = [each for each in faults if each["loc"][:-1] == location[:-1] and each["type"] == "literal_error"]
    reason = _reason(fault)
    for other in alike if fault["type"] == "int_type" else ():
        reason = say("recipe.reason_or", first=reason, second=_reason(other))
    place = place or _PLACES.get(str(fault.get("ctx", {}).get("error", "")), name)
    return TunesmithError("recipe.bad_value", key=place, reason=reason, given=shown)


def _reason(fault: ErrorDetails) -> str:
    """What is wrong with a value, from the catalogue; pydantic's own English where the catalogue has nothing."""
    facts = {
        key: f"{value:g}" if isinstance(value, float) else str(value).replace(" or ", ", ")
        for key, value in fault.get("ctx", {}).items()
    }
    kind = facts["error"] if fault["type"] == "value_error" else fault["type"]
    try:
        return say(f"recipe.reason_{kind}", **facts)
    except KeyError:
        return fault["msg"].removeprefix("Value error, ")


def _walk(location: Sequence[int | str]) -> tuple[list[str], list[type[BaseModel]]]:
    """The path as the user would write it, and the specs whose settings may stand below it.

    pydantic's location also holds the tag of the chosen spec (`lora`), which narrows the specs, and names of types
    where several fit, which say nothing to a user.
    """
    place: list[str] = []
    specs: list[type[BaseModel]] = [Recipe]
    in_table = False
    for part in location:
        fields = [spec.model_fields[str(part)] for spec in specs if part in spec.model_fields]
        if isinstance(part, int) or in_table:
            place.append(str(part))
            in_table = False
        elif fields:
            place.append(part)
            in_table = any(get_origin(field.annotation) is dict for field in fields)
            specs = [found for field in fields for found in _models_in(field.annotation)]
        else:
            tagged = [
                spec for spec in specs if "kind" in spec.model_fields and spec.model_fields["kind"].default == part
            ]
            specs = tagged or specs
    return place, specs


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]


def recipe_schema() -> Mapping[str, object]:
    """The JSON schema of a recipe, for editors."""
    return Recipe.model_json_schema()
