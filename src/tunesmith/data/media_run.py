"""A run that holds prepared rows about pictures or sounds and nothing else: no model is looked at, and none learns."""

from __future__ import annotations

from pathlib import Path

from tunesmith.core.files import folder_aside
from tunesmith.core.ledger import Ledger
from tunesmith.core.lineage import DATA_VERSION
from tunesmith.core.run import LOCK, Run, list_runs, one_at_a_time
from tunesmith.data.collect.fetch import collect
from tunesmith.data.collect.lineage import lineage_of
from tunesmith.data.licences import check_licences
from tunesmith.data.media.content import FOLDER as MEDIA
from tunesmith.data.media.content import MediaPlaces, places_of
from tunesmith.data.prepare import FOLDER, prepare, sources_in_order, write
from tunesmith.data.sides import side_of_run
from tunesmith.recipe.identity import anchored, identity, refuse_changed_sources, source_hashes
from tunesmith.recipe.load import load_recipe

_STAGE = "data"
_LEDGER = "ledger.jsonl"


def prepared_run(recipe_path: Path, root: Path) -> Run:
    """The run of this very recipe and these very files, its rows read, split, augmented and stored.

    One whose preparing was broken off is begun again, and ends with the same bytes. Errors: those of `load_recipe`,
    `check_licences`, `collect`, `Run.create`, `prepare` and `write`; core.run_in_use.
    """
    run = _found_or_made(recipe_path, root)
    with run.owned():
        if run.stage(_STAGE) is None:
            _fill(run)
    return run


def places_in(run_path: Path) -> MediaPlaces:
    """Where the pictures and sounds of a run lie: in its sources' folders, and in the run what was made."""
    recipe, folder = load_recipe(run_path / LOCK), Path(str(Run.open(run_path).manifest()["recipe_folder"]))
    sources = (source for _, source in sources_in_order(recipe.data))
    return places_of(sources, folder, run_path / FOLDER / MEDIA)


def check_rows(run_path: Path) -> None:
    """Hold every file of the run against its hash, the splits against each other, and rows against ledger and version.

    Errors: those of `Run.check_files`, `side_of_run` and `Ledger.check`.
    """
    Run.open(run_path).check_files()
    side = side_of_run(run_path)
    side.ledger.check(row for frame in side.tables.values() for row in frame["row"])


def _found_or_made(recipe_path: Path, root: Path) -> Run:
    folder = recipe_path.resolve().parent
    recipe = anchored(load_recipe(recipe_path), folder)
    check_licences(recipe.all_sources, recipe.goal.compliance)
    collected = collect(recipe.all_sources, folder, offline=recipe.model.offline)
    sources = source_hashes(recipe, folder)
    key = identity(recipe, sources)
    with one_at_a_time(root):
        found = [run for run in list_runs(root, recipe.name, key) if run.manifest().get("recipe_sha256") == key]
        if found:
            return found[-1]
        facts = {
            "recipe_folder": str(folder),
            "sources": sources,
            "collected": [lineage_of(place) for place in collected],
        }
        files = {"recipe.yaml": recipe_path.read_bytes(), LOCK: recipe.as_yaml().encode()}
        return Run.create(root, recipe.name, key, facts, files)


def _fill(run: Run) -> None:
    manifest, recipe, ledger = run.manifest(), load_recipe(run.path / LOCK), Ledger()
    folder = Path(str(manifest["recipe_folder"]))
    with folder_aside(run.path / FOLDER) as made_in:
        licences = recipe.goal.compliance
        prepared = prepare(recipe.data, folder, ledger, recipe.stages, made_in=made_in, compliance=licences)
        refuse_changed_sources(recipe, folder, manifest.get("sources"))
        written = write(prepared, run.path, compliance=recipe.goal.compliance)
    ledger.write(run.path / _LEDGER)
    run.record_files(*written, run.path / _LEDGER, **{DATA_VERSION: prepared.version.id})
    run.finish_stage(_STAGE)
