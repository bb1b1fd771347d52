"""The model that every adaptation is tried on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.models.tiny import tiny_chat_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("base") / "tiny", spread=0.1)
