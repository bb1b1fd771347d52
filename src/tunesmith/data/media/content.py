"""The bytes of the pictures and sounds that rows are about: in files, in the cells of tables, or made here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import disk_errors
from tunesmith.core.types import Media
from tunesmith.data.defects import RowDefect
from tunesmith.data.media.places import inside
from tunesmith.data.media.tables import content_of_cell, is_cell
from tunesmith.recipe.places import local_path
from tunesmith.recipe.specs.sources import SourceSpec

MADE = "made:"
"""How paths of pictures and sounds begin that were made here. No file of a source can have such a name."""
FOLDER = "media"
"""Where these stand in the prepared data."""


@dataclass(frozen=True)
class MediaPlaces:
    """Where the pictures and sounds of rows lie: the folders of each source by its name, and that of what is made.

    Without such a folder what is made is counted and not kept.
    """

    roots: Mapping[str, tuple[Path, ...]]
    made: Path | None = None

    def content(self, source: str, media: Media) -> bytes:
        """The file that a row of a source is about, as it was when it was read.

        Errors: data.source_changed; data.not_kept for one that was made and not kept.
        """
        if media.path.startswith(MADE):
            if self.made is None:
                raise TunesmithError("data.not_kept", path=media.path)
            name, roots = name_of_made(media.path), [self.made]
        else:
            name, roots = media.path, list(self.roots.get(source, ()))
        for root in roots:
            content = _content(root, name)
            if content is not None and hashlib.sha256(content).hexdigest() == media.sha256:
                return content
        raise TunesmithError("data.source_changed", path=f"{source}/{media.path}")

    def keep(self, content: bytes, form: str) -> str:
        """Put down what was made, under its own hash; returns the path that its row states.

        Errors: those of `disk_errors`.
        """
        name = f"{hashlib.sha256(content).hexdigest()}.{form}"
        if self.made is not None:
            place = self.made / name[:2] / name
            with disk_errors(place, lambda: len(content)):
                place.parent.mkdir(parents=True, exist_ok=True)
                if not place.exists():
                    place.write_bytes(content)
        return MADE + name


def name_of_made(path: str) -> str:
    """Where the file of such a path lies below the folder of what is made."""
    name = path.removeprefix(MADE)
    return f"{name[:2]}/{name}"


def put_down(places: MediaPlaces, made: Iterable[Media], folder: Path) -> None:
    """Files that were made, into the folder of the prepared data. Errors: data.source_changed, data.not_kept."""
    for media in made:
        target = folder / FOLDER / name_of_made(media.path)
        content = places.content("", media)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def places_of(sources: Iterable[SourceSpec], folder: Path, made: Path | None = None) -> MediaPlaces:
    """Where the files of sources lie; a source that is a file has its pictures and sounds beside it."""
    roots: dict[str, tuple[Path, ...]] = {}
    for source in sources:
        place = local_path(source, folder)
        root = place if os.path.isdir(place) else place.parent  # a name too long is no folder, and no fault yet
        known = roots.get(source.title, ())
        roots[source.title] = known if root in known else (*known, root)
    return MediaPlaces(roots, made)


def _content(root: Path, name: str) -> bytes | None:
    try:
        return content_of_cell(root, name) if is_cell(name) else inside(root, name).read_bytes()
    except (RowDefect, OSError):
        return None
