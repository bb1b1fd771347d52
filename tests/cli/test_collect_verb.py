"""A run from a database: rows fetched once, kept with their lineage, and fetched again only when asked."""

from __future__ import annotations

import json
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_project import Program

RECIPE = """
name: tiny
model: {{base: {base}, dtype: float32}}
data:
  sources:
    - query: select asked as prompt, answered as completion from faq order by number
      database: env:FAQ_URL
      name: faq
stages:
  - {{name: instruct, train: {{epochs: 1, batch_size: 4}}}}
runtime: {{threads: 1, device: cpu}}
"""


def fill(path: Path, rows: range) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("create table if not exists faq (number integer, asked text, answered text)")
        values = [(number, f"Question {number}?", f"Answer {number}.") for number in rows]
        connection.executemany("insert into faq values (?, ?, ?)", values)
    connection.close()


def test_rows_of_a_database(tmp_path: Path, base: Path, call: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    database, recipe = tmp_path / "pw7Zq.sqlite3", tmp_path / "recipe.yaml"
    fill(database, range(20))
    monkeypatch.setenv("FAQ_URL", f"sqlite:///{database}")
    recipe.write_text(RECIPE.format(base=base), "utf-8")
    first = call("data", recipe, "--json")
    run = Path(str(first.json["run"]))
    assert first.json["fates"] == {"kept": 20}
    (collected,) = json.loads((run / "manifest.json").read_text("utf-8"))["collected"]
    assert collected["rows"] == 20 and collected["query"].startswith("select asked") and len(collected["sha256"]) == 64
    assert "select asked" in (run / "data_card.md").read_text("utf-8")
    written = [each for each in run.rglob("*") if each.is_file()]
    assert written and all(b"pw7Zq" not in each.read_bytes() for each in written), "the URL is nowhere"
    fill(database, range(20, 30))
    assert call("data", recipe, "--json").json["run"] == str(run), "the rows that are kept, the same run"
    fetched = call("data", "collect", recipe, "--json").json["collected"]
    assert isinstance(fetched, list) and fetched[0]["rows"] == 30
    second = call("data", recipe, "--json")
    assert second.json["fates"] == {"kept": 30} and second.json["run"] != str(run)
    monkeypatch.delenv("FAQ_URL")
    assert call("data", recipe, "--json").json["run"] == second.json["run"]
    assert call("data", "collect", recipe, "--json").error == "data.no_database_url"


STORED = (
    RECIPE[: RECIPE.index("    - query")] + '    - {{path: "s3://faq/rows.jsonl"}}\n' + RECIPE[RECIPE.index("stages") :]
)


@pytest.mark.skipif(find_spec("moto") is None or find_spec("s3fs") is None, reason="tunesmith[dev] brings moto")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_rows_of_a_store(tmp_path: Path, base: Path, call: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of a store stand in nothing that a run writes or says."""
    import s3fs
    from s3_server import KEY, SECRET, store

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(STORED.format(base=base), "utf-8")
    with store() as server:
        named = {"AWS_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        for name, value in {**named, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        missing = call("data", recipe, "--json")
        assert missing.error == "data.store_missing"
        lines = [json.dumps({"prompt": f"Question {number}?", "completion": "Yes."}) + "\n" for number in range(20)]
        server.put("faq", {"rows.jsonl": "".join(lines).encode()})
        made = call("data", recipe, "--json")
    assert made.json["fates"] == {"kept": 20}
    said = [made.out, made.err, missing.out, missing.err]
    written = [each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()]
    assert len(written) > 8 and not [text for text in said if SECRET in text or KEY in text]
    assert not [content for content in written if SECRET.encode() in content or KEY.encode() in content]
