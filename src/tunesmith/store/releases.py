"""Which artefacts were released, newest last."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, insert, select
from sqlalchemy.exc import SQLAlchemyError

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import MANIFEST, sha256_file
from tunesmith.store.schema import releases


@dataclass(frozen=True)
class Release:
    """An artefact that was released: `sha256` is of its folder's manifest, which holds the hash of every file."""

    id: str
    time: float
    name: str
    folder: str
    sha256: str
    facts: Mapping[str, object]


class ReleaseStore:
    """Releases in a database; every method may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, name: str, folder: Path, facts: Mapping[str, object] | None = None) -> Release:
        """Enter a published folder. Errors: core.missing_file without a manifest, store.cannot_write."""
        if not (folder / MANIFEST).is_file():
            raise TunesmithError("core.missing_file", path=str(folder / MANIFEST))
        digest = sha256_file(folder / MANIFEST)
        release = Release(str(uuid.uuid4()), time.time(), name, str(folder), digest, dict(facts or {}))
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(releases).values(**vars(release)))
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise TunesmithError("store.cannot_write", reason=reason) from error
        return release

    def all(self, name: str | None = None) -> list[Release]:
        """Releases, of one name if stated, oldest first."""
        wanted = select(releases).order_by(releases.c.time)
        if name is not None:
            wanted = wanted.where(releases.c.name == name)
        with self._engine.connect() as connection:
            rows = connection.execute(wanted).mappings().all()
        return [Release(**{field: row[field] for field in Release.__dataclass_fields__}) for row in rows]
