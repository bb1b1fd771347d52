"""What a corpus is built from: the settings that the pass heeds, and all that its parts depend on."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import user_path
from tunesmith.data.corpus.inputs import Input
from tunesmith.recipe.specs.base import Spec
from tunesmith.recipe.specs.clean import ContentSpec, FilterSpec, PiiSpec, RepairSpec, WordListSpec
from tunesmith.recipe.specs.data import CleanSpec, DataSpec, SourceSpec, SplitSpec
from tunesmith.recipe.specs.goal import ComplianceSpec
from tunesmith.recipe.specs.sources import TermsSpec

Plan = dict[str, object]

_FORM = 3
"""Raised when what a part or a corpus holds changes: parts of an older program are then made again."""
_PACKAGES = ("tunesmith", "polars", "numpy", "ftfy", "opencc")
"""Another version of one of them may make other rows."""

_WHOLE = frozenset({RepairSpec, ContentSpec, WordListSpec, TermsSpec})
"""Rules that look at one row at a time: a piece at a time they do the same as over all rows."""
_KNOWN: dict[type[Spec], frozenset[str]] = {
    DataSpec: frozenset({"task", "rows", "sources", "clean", "split"}),
    CleanSpec: frozenset({"normalize", "exact_duplicates", "near_duplicates", "repair", "filter", "pii", "content"}),
    PiiSpec: frozenset({"action", "types", "key"}),
    FilterSpec: frozenset(FilterSpec.model_fields) - {"max_tokens"},
    SplitSpec: frozenset({"train", "validation", "test", "group_by", "seed"}),
    SourceSpec: frozenset({"path", "name", "layout", "columns", "licence", "split", "terms"}),
}
"""Settings that the pass heeds; every other one is refused where a recipe states it."""
_OVER_ALL_ROWS = ("conflicting_answers", "truncated")
"""Filters that hold rows against each other, or against what most of them do: a piece would decide otherwise."""


def refuse(spec: DataSpec) -> None:
    """Say what a corpus cannot be built with. Errors: data.corpus_rows, data.corpus_setting."""
    if spec.rows != "text":
        raise TunesmithError("data.corpus_rows", rows=spec.rows)
    for setting in _unheeded("data", spec):
        raise TunesmithError("data.corpus_setting", setting=setting)
    rules = spec.clean.filter.rules if spec.clean.filter else []
    for rule in (each for each in rules if each in _OVER_ALL_ROWS):
        raise TunesmithError("data.corpus_setting", setting=f"data.clean.filter.rules: {rule}")


def _unheeded(place: str, spec: Spec) -> Iterator[str]:
    """The stated settings of a spec, and of those below it, that the pass does not heed."""
    if type(spec) in _WHOLE:
        return
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if name not in _KNOWN[type(spec)]:
            if value != field.get_default(call_default_factory=True):
                yield f"{place}.{name}"
            continue
        for number, each in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(each, Spec):
                yield from _unheeded(f"{place}.{name}.{number}" if isinstance(value, list) else f"{place}.{name}", each)


def plan_of(
    spec: DataSpec, recipe_folder: Path, inputs: Sequence[Input], piece_bytes: int, compliance: ComplianceSpec | None
) -> Plan:
    """What the parts depend on. Files count as the same while their size and their time of change are."""
    found = [(each.path, each.path.stat()) for each in inputs]
    files = [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in found]
    lists = spec.clean.content.word_lists if spec.clean.content else []
    words = [hashlib.sha256(user_path(each.path, recipe_folder).read_bytes()).hexdigest() for each in lists]
    stated = [spec.model_dump(mode="json"), compliance and compliance.model_dump(mode="json")]
    digest = hashlib.sha256(json.dumps([*stated, files, piece_bytes, words]).encode()).hexdigest()
    return {"form": _FORM, "python": platform.python_version(), **versions(), "inputs": digest}


def versions() -> dict[str, str]:
    """Versions of the packages that make a part what it is, as far as they are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # one that no rule of the recipe needs, or the checks would have said so
            continue
    return found
