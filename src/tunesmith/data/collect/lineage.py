"""What is known of rows that were fetched: where from, what was asked, when, how many, and their hash."""

from __future__ import annotations

from pathlib import Path

from tunesmith.core.files import MANIFEST, read_manifest
from tunesmith.data.notes import Note
from tunesmith.recipe.places import is_local
from tunesmith.recipe.specs.sources import SourceSpec


def lineage_of(place: Path) -> dict[str, object]:
    """The facts that were written beside rows when they came; none where nothing was fetched.

    Errors: those of `read_manifest`.
    """
    if not (place / MANIFEST).is_file():
        return {}
    found = read_manifest(place).get("lineage")
    return found if isinstance(found, dict) else {}


def lineage_of_source(source: SourceSpec, place: Path) -> dict[str, object]:
    """Those facts of a source from elsewhere. A file called like a manifest in a user's own folder says nothing."""
    return {} if is_local(source) else lineage_of(place)


def lineage_notes(source: SourceSpec, place: Path) -> list[Note]:
    """For the data card. Errors: those of `read_manifest`."""
    facts = lineage_of_source(source, place)
    if not facts:
        return []
    shown = {name: str(facts.get(name, "-")) for name in ("from", "revision", "query", "time", "rows", "sha256")}
    code = "data.collected_query" if "query" in facts else "data.collected_files"
    return [Note(code, {"source": source.title, "origin": shown.pop("from"), **shown})]
