"""Margins of right choices: against plain transformers choice by choice, and their intervals over rows and seeds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import SILENT
from tunesmith.core.files import read_json, write_json
from tunesmith.core.run import Run
from tunesmith.evaluate.forgetting import (
    Margins,
    ask_probes,
    change_over_seeds,
    margins_path,
    measure_margins,
    read_margins,
    write_margins,
)
from tunesmith.evaluate.intervals import paired_gain
from tunesmith.evaluate.probes import Candidate, Probe, probe_file, read_probes
from tunesmith.models.load import load_model
from tunesmith.models.tiny import tiny_chat_model

ROWS: list[dict[str, object]] = [
    {"question": "The sky over the harbour is", "choices": ["blue", "a long way from here"], "answer": 0},
    {"question": "The sky over the harbour was", "choices": ["x", "yy", "zzz"], "answer": 2},
    {
        "context_options": ["He fed the cat, and the cat", "He fed the cat, and the dog"],
        "continuation": "ate.",
        "answer": 0,
    },
    {"question": "天空是", "choices": ["蓝的", "方的"], "answer": 0, "lang": "zh"},
    {"question": "Line\n", "choices": ["a", "b"], "answer": 1},
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "base", spread=0.3, context=64)


def file_of(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "probe.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def test_choices_are_joined_as_they_are_read(tmp_path: Path) -> None:
    probes = read_probes(file_of(tmp_path, ROWS))
    assert probes[0] == Probe(
        (
            Candidate("The sky over the harbour is", " blue"),
            Candidate("The sky over the harbour is", " a long way from here"),
        ),
        0,
    )
    assert probes[2].candidates[1] == Candidate("He fed the cat, and the dog", " ate.")
    assert probes[3].candidates[0] == Candidate("天空是", "蓝的"), "no blank in Chinese"
    assert probes[4].candidates[0] == Candidate("Line\n", "a"), "no blank behind a blank"
    assert probe_file(".", tmp_path) == probe_file("probe.jsonl", tmp_path) == tmp_path / "probe.jsonl"


BAD: dict[str, object] = {
    "no number": {"question": "a", "choices": ["b", "c"], "answer": "0"},
    "beyond": {"question": "a", "choices": ["b", "c"], "answer": 2},
    "negative": {"question": "a", "choices": ["b", "c"], "answer": -1},
    "one choice": {"question": "a", "choices": ["b"], "answer": 0},
    "empty choice": {"question": "a", "choices": ["b", " "], "answer": 0},
    "no list": {"question": "a", "choices": "bc", "answer": 0},
    "a list": [1],
    "nothing asked": {"choices": ["b", "c"], "answer": 0},
}


@pytest.mark.parametrize("name", BAD)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "probe.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n\n" + json.dumps(BAD[name]) + "\n", "utf-8")
    with pytest.raises(TunesmithError, match="bad_probe") as error:
        read_probes(path)
    assert error.value.facts["line"] == 3
    path.write_text("{\n")
    with pytest.raises(TunesmithError, match="bad_probe"):
        read_probes(path)
    with pytest.raises(TunesmithError, match="missing_file"):
        read_probes(tmp_path / "nowhere")


def test_margins_are_those_of_plain_transformers(base: Path, tmp_path: Path) -> None:
    long = {"question": "word " * 80 + "end", "choices": ["of it", "of all that was"], "answer": 1}
    probes = read_probes(file_of(tmp_path, [*ROWS, long]))
    loaded = load_model(base, dtype=torch.float32)
    attention = loaded.model.config._attn_implementation
    found = measure_margins(loaded, probes)
    assert loaded.model.config._attn_implementation == attention
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for place, probe in enumerate(probes):
        scores = []
        for each in probe.candidates:
            context = loaded.tokenizer(each.context, add_special_tokens=False)["input_ids"]
            own = loaded.tokenizer(each.continuation, add_special_tokens=False)["input_ids"]
            ids = torch.tensor([(context + own)[-64:]])
            with torch.no_grad():
                shares = torch.log_softmax(plain(ids).logits[0, :-1], -1)
            scores.append(float(shares.gather(1, ids[0, 1:, None])[-len(own) :].mean()))
        wrong = [score for at, score in enumerate(scores) if at != probe.right]
        assert found.margins[place] == pytest.approx(scores[probe.right] - sum(wrong) / len(wrong), abs=1e-4)
        assert found.likelihoods[place] == pytest.approx(scores[probe.right], abs=1e-4)
        assert found.right[place] == (scores[probe.right] > max(wrong))
    write_margins(tmp_path / "kept.json", found)
    assert read_margins(tmp_path / "kept.json") == found


def test_margins_of_an_older_version_are_measured_again_or_refused(base: Path, tmp_path: Path) -> None:
    probe, loaded = file_of(tmp_path, ROWS), load_model(base, dtype=torch.float32)
    run = Run.create(tmp_path / "runs", "one", "0" * 64)
    ask_probes(run, tmp_path, [str(probe)], loaded, "base", SILENT)
    path = margins_path(run.path, 0, "base")
    found, stored = read_margins(path), read_json(path)
    write_json(path, {name: each for name, each in stored.items() if name != "likelihoods"})
    run.record_files(path)
    with pytest.raises(TunesmithError, match="old_margins"):
        read_margins(path)
    ask_probes(run, tmp_path, [str(probe)], loaded, "base", SILENT)
    run.check_files()
    assert read_margins(path) == found
    for broken in ({}, {**stored, "likelihoods": 1}, {**stored, "right": []}):
        write_json(path, broken)
        with pytest.raises(TunesmithError, match="broken_json"):
            read_margins(path)


def test_a_change_is_told_with_its_interval() -> None:
    draw = np.random.default_rng(1)
    before = draw.normal(0.5, 1.0, 400)
    lost = before - 0.2 + draw.normal(0, 0.1, 400)
    found = paired_gain(lost, before)
    assert found.low < -0.2 < found.high < 0 and found.high - found.low < 0.03, "paired: rows differ far more than that"
    same = Margins((0.1, 0.2), (-3.0, -2.0), (True, True))
    assert paired_gain(same.margins, same.margins).value == 0.0 and same.accuracy == 1.0
    assert (same.mean, same.likelihood) == (pytest.approx(0.15), -2.5)


def test_over_seeds_the_bootstrap_draws_both() -> None:
    draw = np.random.default_rng(2)
    plain = [draw.normal(0.0, 1.0, 300) for _ in range(5)]
    by_question = [each + 0.1 + draw.normal(0, 0.3, 300) for each in plain]
    by_seed = [each + shift for each, shift in zip(plain, (0.5, -0.4, 0.3, -0.2, 0.3), strict=True)]

    def told(one: list[np.ndarray]) -> tuple[float, float, float]:
        found = change_over_seeds([each.tolist() for each in one], [each.tolist() for each in plain])
        return found.low, found.value, found.high

    low, value, high = told(by_question)
    assert 0.05 < low < value < high < 0.15
    low, value, high = told(by_seed)
    assert low < 0 < value < high, "five trainings that differ so much prove nothing, however many questions"
