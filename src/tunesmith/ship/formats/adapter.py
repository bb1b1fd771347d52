"""A change as a folder of its own, in the form that its ecosystem reads: its weights byte for byte, its settings with
nothing in them but what was checked, the base it needs by name and commit, tokenizer and template."""

from __future__ import annotations

import shutil
from pathlib import Path

from tunesmith.adapt.saved import kind_of
from tunesmith.core.files import write_json
from tunesmith.models.allowed import read_allowed
from tunesmith.models.load import BaseFolder
from tunesmith.models.texts import WHOLE_FILES


def write_adapter(folder: Path, change: Path, base: BaseFolder, tokenizer: Path) -> str:
    """Write a change as a folder that its base is enough for; returns the name of its weight file.

    Args:
        change: folder of the change.
        base: the base it was trained on.
        tokenizer: folder whose tokenizer and template the change was trained with.

    Errors: those of `kind_of` and of the kind's settings.
    """
    kind = kind_of(change)
    shutil.copyfile(change / kind.weights, folder / kind.weights)
    needs = {"base_model_name_or_path": base.name, "revision": base.revision or None}
    write_json(folder / kind.config, {**kind.settings(change), **needs})
    for name in WHOLE_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (tokenizer / name).is_file():
            write_json(folder / name, read_allowed(tokenizer, name).values)
    return kind.weights
