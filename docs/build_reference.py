"""Write the generated pages: the recipe reference from the specs, the errors from the catalogue, and what goes with
what from the support matrix.

python docs/build_reference.py            write docs/{en,zh}/{recipe,errors,matrix}.md
python docs/build_reference.py --check    exit code 1 when a page is not current
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tunesmith.compat.matrix import MARKS, TABLES, support_matrix
from tunesmith.messages import LANGUAGES, Language, error_codes, explain
from tunesmith.recipe.recipe import Recipe
from tunesmith.recipe.specs.adapt import AdaptSpec
from tunesmith.recipe.specs.objectives import ObjectiveSpec

FOLDER = Path(__file__).parent
WORDS = tomllib.loads((FOLDER / "words.toml").read_text("utf-8"))

LIKE = {
    "data.validation_sources": "data.sources",
    "data.test_sources": "data.sources",
    "stages.data.sources": "data.sources",
    "stages.data.validation_sources": "data.sources",
    "stages.data.clean": "data.clean",
    "stages.data.labels": "data.labels",
    "data.benchmarks": "data.sources",
    "stages.penalties.ewc.sources": "data.sources",
    "stages.replay.sources": "data.sources",
    "stages.objective.target_sources": "data.sources",
    "data.augment.generator.hosted": "stages.objective.hosted",
}
"""Settings that hold the same as another one, which is shown once."""

KINDS = {"stages.adapt.kind": (AdaptSpec, "lora"), "stages.objective.kind": (ObjectiveSpec, "supervised")}
"""Settings that choose one of several specs, and the one that is chosen where a stage says nothing."""


def recipe_page(language: Language) -> str:
    """The page of all settings."""
    words = WORDS[language]
    lines = [f"# {words['recipe']}", "", words["recipe_intro"]]
    for section, rows in _sections():
        lines += ["", f"## {section}", "", words["columns"], "|---|---|---|---|"]
        lines += [_row(path, field, language) for path, field in rows]
    return "\n".join(lines) + "\n"


def setting_names() -> list[str]:
    """Every setting by its dotted name, as the Chinese file must have them."""
    return [path for _, rows in _sections() for path, _ in rows]


def _sections() -> Iterator[tuple[str, list[tuple[str, FieldInfo]]]]:
    top = [(name, field) for name, field in Recipe.model_fields.items() if not _models_in(field.annotation)]
    yield "recipe", top
    for name, field in Recipe.model_fields.items():
        if _models_in(field.annotation):
            yield name, list(_leaves(name, field))


def _leaves(prefix: str, field: FieldInfo) -> Iterator[tuple[str, FieldInfo]]:
    """Settings below a field; where it holds one of several specs, each kind has its own settings."""
    models = _models_in(field.annotation)
    if prefix in LIKE:
        yield prefix, field
        return
    seen: set[str] = set()
    for model in models:
        for name, inner in model.model_fields.items():
            if name in seen:
                continue
            seen.add(name)
            if _models_in(inner.annotation):
                yield from _leaves(f"{prefix}.{name}", inner)
            else:
                yield f"{prefix}.{name}", inner


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _row(path: str, field: FieldInfo, language: Language) -> str:
    if path in KINDS:
        kinds, default = KINDS[path]
        value = ", ".join(str(each.model_fields["kind"].default) for each in _models_in(kinds))
    elif path in LIKE:
        value, default = f"[`{LIKE[path]}`]", "-"
    else:
        value, default = ", ".join(_values(field.annotation, WORDS[language])), _default(field, language)
    meaning = WORDS[f"fields_{language}"].get(path, field.description)
    return f"| `{path}` | {value} | {default} | {meaning} |"


def _default(field: FieldInfo, language: Language) -> str:
    if field.default is PydanticUndefined:
        return WORDS[language]["required"]
    if field.default in ("", [], {}) or field.default is None:
        return "-"
    if isinstance(field.default, list):
        return ", ".join(f"`{each}`" for each in field.default)
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _values(annotation: object, words: Mapping[str, str]) -> list[str]:
    """The words or types that a setting takes."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return [str(each) for each in parts]
    if origin is Annotated:
        return _values(parts[0], words)
    if origin in (Union, UnionType):
        return [word for part in parts if part is not type(None) for word in _values(part, words)]
    if origin is list:
        return [f"[{', '.join(_values(parts[0], words))}]"]
    if origin is dict:
        return [words["table"].replace(words["text"], " / ".join(_values(parts[1], words)))]
    names = {str: words["text"], int: words["whole"], float: words["number"], bool: "true, false"}
    return [names[annotation]] if isinstance(annotation, type) else []


def errors_page(language: Language) -> str:
    """The page of all error codes."""
    words = WORDS[language]
    lines = [f"# {words['errors']}", "", words["errors_intro"]]
    room = ""
    for code in error_codes():
        if code.partition(".")[0] != room:
            room = code.partition(".")[0]
            lines += ["", f"## {room}"]
        found = explain(code, language)
        lines += ["", f"**`{code}`**: {found.cause}  ", f"{words['next']} {found.next_step}"]
    return "\n".join(lines) + "\n"


def matrix_page(language: Language) -> str:
    """The page of what goes with what: tables of marks, then what each mark says."""
    words, matrix = WORDS[language], support_matrix()
    lines = [f"# {words['matrix']}", "", words["matrix_intro"], ""]
    for result in MARKS:
        lines.append(f"- {matrix.mark(result)} {words[f'matrix_{result}']}")
    lines += [f"- {matrix.mark(code)} {words['matrix_refused']} `{code}`" for code in matrix.codes]
    for axis, column_axes in TABLES:
        columns = matrix.columns(column_axes)
        with_what = words["matrix_and"].join(words[f"axis_{each}"] for each in column_axes)
        lines += ["", f"## {words[f'axis_{axis}']} × {with_what}", ""]
        lines += [f"| {words[f'axis_{axis}']} | " + " | ".join(value for _, value in columns) + " |"]
        lines += ["|---" * (len(columns) + 1) + "|"]
        lines += [f"| {value} | " + " | ".join(signs) + " |" for value, signs in matrix.rows(axis, columns)]
    return "\n".join(lines) + "\n"


def pages() -> dict[Path, str]:
    """Every generated page with its text."""
    made: dict[Path, str] = {}
    for language in LANGUAGES:
        made[FOLDER / language / "recipe.md"] = recipe_page(language)
        made[FOLDER / language / "errors.md"] = errors_page(language)
        made[FOLDER / language / "matrix.md"] = matrix_page(language)
    return made


def stale() -> list[Path]:
    """Pages whose file says something else."""
    return [path for path, text in pages().items() if not path.is_file() or path.read_text("utf-8") != text]


if __name__ == "__main__":
    if "--check" in sys.argv:
        old = stale()
        sys.stderr.write("".join(f"{path} is not current; run python docs/build_reference.py\n" for path in old))
        sys.exit(bool(old))
    for page, content in pages().items():
        page.write_text(content, "utf-8")
