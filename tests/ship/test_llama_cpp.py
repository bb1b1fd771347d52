"""The judge: its failures are errors with a code, never a crash of this process or a hang."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.ship.formats import llama_cpp
from tunesmith.ship.formats.llama_cpp import LlamaJudge


def test_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + b"\xff" * 64)
    with pytest.raises(TunesmithError) as caught, LlamaJudge(path, context=64):
        pass
    assert caught.value.code == "ship.judge_failed"


def test_a_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: None)
    with pytest.raises(TunesmithError) as caught, LlamaJudge(tmp_path / "model.gguf", context=64):
        pass
    assert caught.value.code == "ship.judge_missing"
    assert caught.value.facts["command"] == "pip install xllamacpp"


def test_out_of_time(tmp_path: Path) -> None:
    with pytest.raises(TunesmithError) as caught, LlamaJudge(tmp_path / "model.gguf", context=64, seconds=0):
        pass
    assert caught.value.code == "ship.judge_failed"


def test_the_current_folder_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\n")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TunesmithError), LlamaJudge(tmp_path / "model.gguf", context=64):
        pass
    assert not (tmp_path / "was-run").exists()
