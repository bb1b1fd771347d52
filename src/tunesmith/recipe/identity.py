"""Which run a recipe means: the same settings over the same files are the same run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import folder_hashes, sha256_file, user_path
from tunesmith.recipe.places import local_path
from tunesmith.recipe.recipe import Recipe, StageSpec
from tunesmith.recipe.specs.adapt import LoraExpertsSpec
from tunesmith.recipe.specs.data import RowsSpec, SourceSpec
from tunesmith.recipe.specs.objectives import DistillSpec

REGISTER = "dataset_info.json"
"""LLaMA-Factory's register of layouts. It stands beside a file and says how that is read, so it is a source itself."""


def anchored(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with models that are paths made absolute: like every path in it, they start at the recipe's folder."""
    model = recipe.model.model_copy(update={"base": _anchored_path(recipe.model.base, folder)})
    stages = [_with_anchored_start(_with_anchored_teacher(stage, folder), folder) for stage in recipe.stages]
    return recipe.model_copy(update={"model": model, "stages": stages})


def _anchored_path(name: str, folder: Path) -> str:
    if name.startswith("~") or not ("/" in name or name.endswith(".gguf")) or not os.path.exists(folder / name):
        return name
    return str((folder / name).resolve())


def _with_anchored_teacher(stage: StageSpec, folder: Path) -> StageSpec:
    spec = stage.objective
    if not isinstance(spec, DistillSpec) or spec.hosted is not None:
        return stage
    return stage.model_copy(
        update={"objective": spec.model_copy(update={"teacher": _anchored_path(spec.teacher, folder)})}
    )


def _with_anchored_start(stage: StageSpec, folder: Path) -> StageSpec:
    spec = stage.adapt
    if not isinstance(spec, LoraExpertsSpec) or spec.start is None:
        return stage
    start = str(user_path(spec.start, folder).resolve())
    return stage.model_copy(update={"adapt": spec.model_copy(update={"start": start})})


def identity(recipe: Recipe, sources: Mapping[str, str]) -> str:
    """SHA-256 of the recipe and of its `source_hashes`: an edited source is another run."""
    digest = hashlib.sha256(recipe.as_json().encode())
    for found in sources.values():
        digest.update(found.encode())
    return digest.hexdigest()


def source_hashes(recipe: Recipe, folder: Path) -> dict[str, str]:
    """SHA-256 of each source, by its place in the recipe and its path; of a folder, of the list of its files.

    Of a file also that of the register beside it, where there is one.
    """
    found: dict[str, str] = {}
    lists = ("sources", "validation_sources", "test_sources", "benchmarks")
    stated = {f"data.{name}": getattr(recipe.data, name) or [] for name in lists}
    stated |= recipe.sources_beside | {"evaluate.forgetting": _probes(recipe), "stages.adapt.start": _starts(recipe)}
    stated["data.clean.content.word_lists"] = _word_lists(recipe)
    stated["data.augment"] = _files_of_augment(recipe)
    stated["data.clean.pii.tagger"] = _taggers(recipe)
    for name, sources in stated.items():
        for number, source in enumerate(sources):
            path, place = local_path(source, folder), f"{name}.{number}"
            if os.path.isdir(path):
                found[f"{place} ({source.address})"] = hash_of_source(path)
            elif os.path.isfile(path):
                found[f"{place} ({source.address})"] = hash_of_source(path)
                if path.with_name(REGISTER).is_file():
                    found[f"{place} ({Path(source.path).with_name(REGISTER)})"] = sha256_file(path.with_name(REGISTER))
    return found


def _word_lists(recipe: Recipe) -> list[SourceSpec]:
    """Lists of words decide which rows stay."""
    rules = [each.clean.content for each in _all_rows(recipe)]
    named = dict.fromkeys(each.path for content in rules if content is not None for each in content.word_lists)
    return [SourceSpec(path=path) for path in named]


def _taggers(recipe: Recipe) -> list[SourceSpec]:
    """A model that finds names decides what is masked."""
    rules = [each.clean.pii for each in _all_rows(recipe)]
    named = dict.fromkeys(pii.tagger for pii in rules if pii is not None and pii.tagger is not None)
    return [SourceSpec(path=path) for path in named]


def _all_rows(recipe: Recipe) -> list[RowsSpec]:
    """The run's rows, and those that stages have of their own."""
    return [recipe.data, *(stage.data for stage in recipe.stages if stage.data is not None)]


def _files_of_augment(recipe: Recipe) -> list[SourceSpec]:
    """Dictionaries, documents and a schema that rows are made with."""
    spec = recipe.data.augment
    if spec is None:
        return []
    named = [each.dictionary for each in (spec.synonyms, spec.edit) if each is not None and each.dictionary != "auto"]
    if spec.synthesize is not None:
        named += [*spec.synthesize.documents, *filter(None, [spec.synthesize.schema_file])]
    return [SourceSpec(path=path) for path in named]


def hash_of_source(path: Path) -> str:
    """SHA-256 of a file; of a folder, of the list of its files with theirs."""
    return hash_of_files(folder_hashes(path)) if os.path.isdir(path) else sha256_file(path)


def hash_of_files(hashes: Mapping[str, str]) -> str:
    """SHA-256 of a folder, from that of each file by its path in it."""
    return hashlib.sha256(repr(sorted(hashes.items())).encode()).hexdigest()


def _starts(recipe: Recipe) -> list[SourceSpec]:
    """What a stage goes on from belongs to what it is made of."""
    adapts = [stage.adapt for stage in recipe.stages]
    return [SourceSpec(path=each.start) for each in adapts if isinstance(each, LoraExpertsSpec) and each.start]


def _probes(recipe: Recipe) -> list[SourceSpec]:
    """What the evaluation asks besides the test rows is a source like any other."""
    return [SourceSpec(path=path) for path in recipe.evaluate.forgetting]


def refuse_changed_sources(recipe: Recipe, folder: Path, stated: object) -> None:
    """Hold the sources against the hashes that a run's manifest states. Errors: data.source_changed."""
    now = source_hashes(recipe, folder)
    if isinstance(stated, dict) and stated != now:
        odd = sorted(name for name in {*stated, *now} if stated.get(name) != now.get(name))
        raise TunesmithError("data.source_changed", path=odd[0])


def settings(recipe: Recipe, *parts: str) -> dict[str, str]:
    """Every single setting by its place, such as stages.0.train.batch_size; of the named parts, or of all."""
    values = recipe.model_dump(mode="json")
    return {
        place: json.dumps(value, ensure_ascii=False) for place, value in _leaves(values, "") if _within(place, parts)
    }


def _within(place: str, parts: tuple[str, ...]) -> bool:
    return not parts or place.partition(".")[0] in parts


def _leaves(value: object, place: str) -> Iterator[tuple[str, object]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = False
    for name, each in inner:
        found = True
        yield from _leaves(each, f"{place}.{name}" if place else str(name))
    if not found:
        yield place, value
