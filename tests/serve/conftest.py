"""One small server for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
import torch

from tunesmith.core.events import SILENT
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.recipe.specs.serve import ServeSpec
from tunesmith.serve.server import Server, open_service
from tunesmith.store.database import sqlite_url

KEY = "a-stated-key-for-tests-0123456789"
SPEC = ServeSpec(port=0, max_batch=4, max_queue=12, max_new_tokens=200, max_body_mb=1)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("served") / "tiny", spread=0.3)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "store.db"


@pytest.fixture(scope="session")
def server(model_folder: Path, database: Path) -> Iterator[Server]:
    opened = open_service(model_folder, SPEC, sqlite_url(database), SILENT, KEY, name="tiny", dtype=torch.float32)
    opened.start()
    yield opened
    opened.stop()


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0, timeout=30) as made:
        yield made


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=server.url.removesuffix("/v1"), headers=headers, timeout=30) as made:
        yield made
