"""A published adapter in memory: its base is found again, held to its hash, and the change put on it."""

from __future__ import annotations

from pathlib import Path

import torch

from tunesmith.adapt.saved import check_base, put_on
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import MANIFEST, read_manifest
from tunesmith.models.heads import Head
from tunesmith.models.load import BaseFolder, Loaded, load_model, load_with_head, resolve_base
from tunesmith.models.texts import TOKENIZER

_FOUND_BY_NAME = ("bundled", "hub", "modelscope")
"""Sources of bases whose name leads to them on every machine; a folder's does not."""


def load_published(
    folder: Path,
    *,
    base: str | None,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    head: Head | None = None,
) -> tuple[Loaded, BaseFolder]:
    """The base that a folder with a change is for, with the change put on it, and where that base lies.

    Args:
        folder: a published adapter, or one of others in PEFT's form. Its tokenizer and template are taken where it has
            them.
        base: where the base is found; none leaves it to the folder's manifest.
        head: the task head that the change brings.

    Errors: adapt.base_needed, ship.other_base, those of `resolve_base`, `load_model` and `put_on`.
    """
    found = find_base(folder, base)
    check_base(found, folder)
    texts = folder if (folder / TOKENIZER).is_file() else found.path
    if head is None:
        loaded = load_model(found.path, dtype=dtype, device=device, tokenizer_folder=texts)
    else:
        loaded = load_with_head(found.path, head, dtype=dtype, device=device)
    put_on(loaded.model, folder, loaded.new)
    return loaded, found


def find_base(folder: Path, stated: str | None) -> BaseFolder:
    """The base of a folder with a change: the one stated, else the one that its manifest names.

    Errors: adapt.base_needed, and those of `resolve_base`.
    """
    facts = read_manifest(folder) if (folder / MANIFEST).is_file() else {}
    revision = str(facts.get("base_revision") or "") or None
    if stated is None:
        if facts.get("base_source") not in _FOUND_BY_NAME:
            raise TunesmithError("adapt.base_needed", path=str(folder), base=str(facts.get("base") or "?"))
        stated = str(facts["base"])
    return resolve_base(stated, revision=revision)
