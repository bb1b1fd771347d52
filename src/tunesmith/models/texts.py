"""What a model folder holds besides weights: configuration, tokenizer and template."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tunesmith.core.files import sha256_file

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)


def texts_sha256(folder: Path) -> str:
    """SHA-256 of these files, by their names and their hashes."""
    paths = [folder / name for name in ("config.json", *TOKENIZER_FILES)]
    found = {path.name: sha256_file(path) for path in paths if path.is_file()}
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()
