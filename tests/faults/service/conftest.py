"""One service in a process of its own for all tests of this folder, and the parent that more are forked from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faults_service import Service, Warm


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    made = Warm(tmp_path_factory.mktemp("warm"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def tiny_model(warm: Warm) -> Path:
    child = warm.fork("model")
    assert child.wait(30) == 0, (child.folder / "err").read_text()
    return child.folder / "tiny"


@pytest.fixture(scope="session")
def service(warm: Warm, tiny_model: Path) -> Iterator[Service]:
    settings = {"max_batch": 4, "max_queue": 12, "max_new_tokens": 64, "max_body_mb": 1, "request_seconds": 1}
    with warm.service(tiny_model, **settings) as opened:
        yield opened
