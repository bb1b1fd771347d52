"""Processes of a corpus build: one a core, fewer where memory does not carry them, none where not even one fits."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from tunesmith.core import memory as core_memory
from tunesmith.core.errors import TunesmithError
from tunesmith.core.process import available_cores
from tunesmith.data.corpus import memory
from tunesmith.data.corpus.memory import process_bytes, processes_for
from tunesmith.recipe.specs.data import DataSpec

MEBIBYTE = 2**20


def spec(*paths: str) -> DataSpec:
    return DataSpec.model_validate({"rows": "text", "sources": [{"path": path} for path in paths]})


def test_what_a_process_needs_follows_from_the_largest_piece(tmp_path: Path) -> None:
    line = json.dumps({"text": "word " * 200}) + "\n"
    (tmp_path / "small.jsonl").write_text(line * 100)
    (tmp_path / "large.jsonl").write_text(line * 5000)
    texts = pl.DataFrame({"text": [f"{number} {'x' * 1000}" for number in range(9000)]})
    texts.write_parquet(tmp_path / "groups.parquet", row_group_size=9000)
    size = (tmp_path / "small.jsonl").stat().st_size
    small = process_bytes(spec("small.jsonl"), tmp_path)
    assert small == 2**28 + 16 * size, "a file smaller than a piece"
    assert process_bytes(spec("small.jsonl", "large.jsonl"), tmp_path, 1 << 20) == 2**28 + 16 * 2**20
    assert process_bytes(spec("small.jsonl", "groups.parquet"), tmp_path, 1 << 20) > 2**28 + 16 * 8 * 2**20
    with pytest.raises(TunesmithError) as caught:
        process_bytes(DataSpec.model_validate({"sources": [{"path": "none.csv"}]}), tmp_path)
    assert caught.value.code == "data.corpus_rows", "what the pass cannot do is said first"


@pytest.mark.parametrize(("free", "count"), [(800, 1), (1700, 2), (100_000, 16)])
def test_memory_counts_the_processes(monkeypatch: pytest.MonkeyPatch, free: int, count: int) -> None:
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: free * MEBIBYTE)
    monkeypatch.setattr(memory, "available_cores", lambda: 16)
    assert processes_for(768 * MEBIBYTE) == count


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in (("memory.max", 1 << 30), ("memory.current", 300 * MEBIBYTE)):
        (tmp_path / name).write_text(f"{content}\n")
    (tmp_path / "memory.stat").write_text("inactive_file 0\n")
    monkeypatch.setattr(core_memory, "_GROUPS", tmp_path)
    assert processes_for(700 * MEBIBYTE) == 1
    with pytest.raises(TunesmithError) as caught:
        processes_for(768 * MEBIBYTE)
    assert caught.value.code == "corpus.too_little_memory"
    assert caught.value.facts == {"needed_mb": 768, "free_mb": 724}


def test_the_command_says_that_it_takes_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.cli import corpus
    from tunesmith.cli.main import app

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": f"Text {n} of a row."}) + "\n" for n in range(50)))
    data = {"rows": "text", "sources": [{"path": "rows.jsonl"}]}
    recipe = {"name": "x", "model": {"base": "smollm2-135m"}, "data": data, "stages": [{"name": "instruct"}]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: 300 * MEBIBYTE)
    monkeypatch.setattr(corpus, "available_cores", lambda: available_cores() + 1)
    command = ["data", "corpus", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "1 of" in done.output and "257 MB" in done.output and (tmp_path / "out" / "train").is_dir()
