"""A hub that cannot be reached, or answers with nothing, ends in a sentence and not in a library's own error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hub_server import hub
from huggingface_hub import constants

from tunesmith.core.errors import TunesmithError
from tunesmith.models.hub import download


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with hub() as address:
        yield address


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(TunesmithError, match=r"models\.download_failed"):
        download("acme/model", None, offline=False)


def test_a_model_that_is_not_there(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(TunesmithError, match=r"models\.download_failed"):
        download("acme/model", None, offline=False)
