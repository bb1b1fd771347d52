"""Where this program keeps what it made or fetched and may need again."""

from __future__ import annotations

import os
from pathlib import Path


def hub_offline() -> bool:
    """Whether the environment forbids hubs, in the words of the Hugging Face library."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def cache_folder() -> Path:
    """$TUNESMITH_HOME, else ~/.cache/tunesmith."""
    stated = os.environ.get("TUNESMITH_HOME")
    return Path(stated) if stated else Path.home() / ".cache" / "tunesmith"
