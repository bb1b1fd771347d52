"""Sources from elsewhere into folders of this machine: whole, hashed, with their lineage, and only once.

What was fetched stays until it is fetched again by name, so that a run that was broken off goes on with the same rows.
The folder is the user's alone: it may hold what a database lets nobody else see.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import new_folder, remove_rubbish, sha256_file, verify_folder
from tunesmith.core.home import hub_offline
from tunesmith.core.secrets import without_secrets
from tunesmith.data.collect.database import answer_to, database_place
from tunesmith.data.collect.hubs import HF, MODELSCOPE, fetch_from_hub, fetch_from_modelscope
from tunesmith.data.collect.lineage import lineage_of
from tunesmith.data.collect.stores import fetch_from_store
from tunesmith.data.formats.rows import refuse_doubled
from tunesmith.recipe.places import is_local, local_path
from tunesmith.recipe.specs.sources import SourceSpec

ROWS_FILE = "rows.jsonl"


def collect(sources: Iterable[SourceSpec], folder: Path, *, offline: bool, again: bool = False) -> list[Path]:
    """Fetch what is not here yet (or all of it `again`); returns the folders of the sources from elsewhere.

    Args:
        folder: the recipe's, where relative paths begin.
        offline: what is here already is used, and nothing is asked for.

    Errors: data.offline_source; those of `answer_to`, `fetch_from_hub`, `fetch_from_store`; those of `verify_folder`
    where what was fetched is damaged.
    """
    places = []
    for source in sources:
        if is_local(source):
            continue
        place = local_path(source, folder)
        remove_rubbish(place.parent)
        if again or not _is_here(source, place, folder):
            if offline or (source.query is None and hub_offline()):
                raise TunesmithError("data.offline_source", source=source.title)
            _fetch(source, place, folder)
        places.append(place)
    return places


def _is_here(source: SourceSpec, place: Path, folder: Path) -> bool:
    """Whether the rows are here, whole, and out of the database that the source names now."""
    if not place.is_dir():
        return False
    verify_folder(place)
    if source.query is None:
        return True
    now = database_place(source, folder)  # unknown where the variable is not set: then what is here counts
    return now is None or lineage_of(place).get("database") == now


def _fetch(source: SourceSpec, place: Path, folder: Path) -> None:
    lineage: dict[str, object] = {"from": source.address, "time": datetime.now(UTC).isoformat(timespec="seconds")}
    began = time.monotonic()
    with new_folder(place, lineage=lineage) as aside:
        aside.chmod(0o700)
        if source.query is not None:
            lineage |= {"query": without_secrets(source.query), "database": database_place(source, folder) or ""}
            lineage |= _fetch_query(source, folder, aside / ROWS_FILE)
        elif source.path.startswith(HF):
            lineage |= fetch_from_hub(source.path, aside)
        elif source.path.startswith(MODELSCOPE):
            lineage |= fetch_from_modelscope(source.path, aside)
        else:
            lineage |= fetch_from_store(source.path, aside)
        lineage["seconds"] = round(time.monotonic() - began, 1)


def _fetch_query(source: SourceSpec, folder: Path, out: Path) -> dict[str, object]:
    """Write the rows of a query as JSON lines, one batch in memory at a time."""
    rows = 0
    with answer_to(source, folder) as answer, out.open("w", encoding="utf-8") as file:
        refuse_doubled(answer.columns, Path(source.title))
        for lines in answer.batches:
            rows += len(lines)
            file.writelines(lines)
    if not rows:
        raise TunesmithError("data.empty_file", path=source.title)
    return {"rows": rows, "sha256": sha256_file(out)}
