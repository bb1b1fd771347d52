"""What a model folder holds besides weights: configuration, tokenizer, template, and where it came from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tunesmith.core.files import sha256_file

TOKENIZER = "tokenizer.json"
ADDED_TOKENS = "added_tokens.json"
TEMPLATE = "chat_template.jinja"
ORIGIN = "origin.json"

WHOLE_FILES = (TOKENIZER, ADDED_TOKENS, TEMPLATE)
"""Files that are used as they are; of the others only the keys that `allowed.FILES` names."""

TOKENIZER_FILES = (*WHOLE_FILES, "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
MODEL_FILES = ("config.json", *TOKENIZER_FILES)


def texts_sha256(folder: Path) -> str:
    """SHA-256 of these files, by their names and their hashes."""
    paths = [folder / name for name in MODEL_FILES]
    found = {path.name: sha256_file(path) for path in paths if path.is_file()}
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()
