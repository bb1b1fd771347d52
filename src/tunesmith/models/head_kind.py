"""Which head a model folder says that it has. This file needs no torch: commands ask before anything loads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import MANIFEST, read_manifest, verify_file
from tunesmith.models.allowed import read_allowed

HeadTask = Literal["text_class", "token_class"]

_ENDINGS: dict[str, HeadTask] = {
    "ForSequenceClassification": "text_class",
    "ForTokenClassification": "token_class",
}
"""How transformers' classes with such a head are named."""


def head_kind(folder: Path) -> HeadTask | None:
    """What the model of a folder gives classes to: by the class that its configuration names, or, where a change is
    published beside its base, by its manifest. None without such a head.

    Errors: those of `read_allowed`, `read_manifest` and, of a published folder, `verify_file`.
    """
    if not (folder / "config.json").is_file():
        task = read_manifest(folder).get("task") if (folder / MANIFEST).is_file() else None
        return next((kind for kind in _ENDINGS.values() if kind == task), None)
    if (folder / MANIFEST).is_file():
        verify_file(folder, "config.json")
    stated = read_allowed(folder, "config.json").values.get("architectures")
    named = str(stated[0]) if isinstance(stated, list) and stated else ""
    return next((kind for ending, kind in _ENDINGS.items() if named.endswith(ending)), None)


def refuse_head(folder: Path) -> None:
    """Refuse a model that answers with classes where one that writes is asked for. Errors: models.gives_classes."""
    if head_kind(folder) is not None:
        raise TunesmithError("models.gives_classes", path=str(folder))
