"""Planted passwords, keys and signatures over everything that commands write and say."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import LEAKED, TOKEN, hub
from huggingface_hub import constants
from tiny_project import Program

PLANTED = ("pLanted7Zq", "AKIAPLANTED7ZQPLANTE", TOKEN)
RECIPE = """
name: tiny
model: {{base: {base}, dtype: float32}}
data:
  sources:
    - {{query: "select asked as prompt, answered as completion from faq", database: env:FAQ_URL, name: faq}}
  clean: {{pii: mask}}
goal: {{compliance: {{}}}}
stages:
  - {{name: instruct, train: {{epochs: 1, batch_size: 4}}}}
evaluate: {{metrics: [exact_match], max_new_tokens: 4, examples: 1}}
ship: {{formats: [safetensors], parity: {{chats: 8}}}}
runtime: {{threads: 1, device: cpu}}
"""


@pytest.fixture
def _ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    named = {"HF_TOKEN": TOKEN, "AWS_ACCESS_KEY_ID": PLANTED[1], "TUNESMITH_STORE_PASSWORD": PLANTED[0]}
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    with sqlite3.connect(tmp_path / f"{PLANTED[0]}.db") as connection:
        connection.execute("create table faq (asked text, answered text)")
        connection.executemany("insert into faq values (?, ?)", [(f"Question {n}?", f"Answer {n}.") for n in range(24)])
    connection.close()
    monkeypatch.setenv("FAQ_URL", f"sqlite:///{tmp_path}/{PLANTED[0]}.db")
    yield


def leaks(folder: Path, said: list[str]) -> list[str]:
    """Where a planted value stands."""
    files = [each for each in folder.rglob("*") if each.is_file() and each.suffix != ".db"]
    assert len(files) > 1
    found = [str(each) for each in files if any(value.encode() in each.read_bytes() for value in PLANTED)]
    return found + [each for each in said if any(value in each for value in PLANTED)]


@pytest.mark.usefixtures("_ground")
def test_a_whole_run(tmp_path: Path, base: Path, call: Program) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(base=base), "utf-8")
    done = call("run", recipe, "--json")
    assert done.code == 0, done.out + done.err
    run = Path(str(done.json["run"]))
    assert {"manifest.json", "ledger.jsonl", "metrics.jsonl", "data_card.md", "recipe.lock.yaml"} <= {
        each.name for each in run.iterdir()
    }
    assert not leaks(tmp_path, [done.out, done.err])


SECRETS = [
    "https://user:pLanted7Zq@hub.example/acme",
    "s3://key:pLanted7Zq@bucket/a.jsonl",
    "https://box.blob.core.windows.net/rows?sv=2024&sig=pLanted7Zq",
    "postgresql://reader:pLanted7Zq@db/faq",
    "AKIAPLANTED7ZQPLANTE",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.usefixtures("_ground")
def test_a_recipe_with_a_secret_starts_nothing(tmp_path: Path, base: Path, call: Program, secret: str) -> None:
    """In a value, in a comment, from the command line: a run would keep a copy."""
    plain = RECIPE.format(base=base)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(plain, "utf-8")
    said = []
    with_override = call("run", recipe, "--set", f"data.sources.0.path={secret}", "--json")
    assert with_override.error == "recipe.secret" and "data.sources.0.path" in with_override.out
    for text in (plain + f"# was {secret}\n", plain.replace("name: faq", f"licence: '{secret}'")):
        recipe.write_text(text, "utf-8")
        refused = call("data", recipe, "--json")
        assert refused.error == "recipe.secret" and "recipe.yaml:" in refused.out
        said += [refused.out, refused.err]
    recipe.unlink()
    assert not list(tmp_path.rglob("manifest.json"))
    assert not [
        each for each in [*said, with_override.out, with_override.err] if any(value in each for value in PLANTED)
    ]


@pytest.mark.usefixtures("_ground")
def test_what_a_hub_says_of_a_model(tmp_path: Path, call: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(base="acme/leaky"), "utf-8")
    assert all(value in LEAKED for value in (TOKEN, PLANTED[0]))
    with hub() as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        said = call("run", recipe, "--json")
    assert said.error == "models.download_failed", said.out
    cause = json.loads(said.out)["error"]["cause"]
    assert "may not read" in cause and "***" in cause
    assert not leaks(tmp_path, [said.out, said.err])
