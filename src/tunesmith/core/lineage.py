"""Which runs used which data: told by their manifests alone."""

from __future__ import annotations

from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.run import Run, list_runs

DATA_VERSION = "data_version"


def runs_by_version(root: Path) -> dict[str, list[Run]]:
    """The runs below `root` by the version of their data, both oldest first.

    A run without data yet, or with a damaged manifest, is none of any version: `runs list` names what is damaged.
    """
    found: dict[str, list[Run]] = {}
    for run in list_runs(root):
        try:
            version = run.manifest().get(DATA_VERSION)
        except TunesmithError:
            continue
        if isinstance(version, str):
            found.setdefault(version, []).append(run)
    return found
