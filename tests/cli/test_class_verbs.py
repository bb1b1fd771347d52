"""The commands around a run whose model gives classes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from class_rows import several_rows, text_rows, token_rows, write_rows
from tiny_project import Program
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder

RECIPE = """
name: {name}
model: {{base: ./base, dtype: float32}}
data:
  task: {task}
  {rows}
  sources: [{{path: train.jsonl}}]
  validation_sources: [{{path: validation.jsonl}}]
  test_sources: [{{path: test.jsonl}}]
stages:
  - name: classify
    adapt: {adapt}
    train: {{epochs: 2, learning_rate: 2e-2, batch_size: 8, max_length: 96}}
runtime: {{threads: 1, device: cpu}}
"""
LORA, PREFIX = "{kind: lora, rank: 4}", "{kind: prefix, num_virtual_tokens: 4}"
KINDS = {
    "text": ("text_class", "rows: text_class", text_rows, tiny_encoder, LORA),
    "several": ("text_class", "rows: multi_label", several_rows, tiny_chat_model, LORA),
    "beside": ("text_class", "rows: multi_label", several_rows, tiny_encoder, PREFIX),
    "token": ("token_class", "rows: token_class", token_rows, tiny_encoder, LORA),
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """The answers of `run --json` by kind, and what each said without it the second time."""
    answers: dict[str, dict[str, object]] = {}
    for name, (task, kind, rows, make, adapt) in KINDS.items():
        folder = tmp_path_factory.mktemp(name)
        make(folder / "base", spread=0.1)
        for split, count in (("train", 40), ("validation", 8), ("test", 12)):
            write_rows(folder / f"{split}.jsonl", rows(count, split))  # type: ignore[arg-type]
        (folder / "recipe.yaml").write_text(RECIPE.format(name=name, task=task, rows=kind, adapt=adapt), "utf-8")
        arguments = ["run", str(folder / "recipe.yaml"), "--runs", str(folder / "runs")]
        result = CliRunner().invoke(app, [*arguments, "--json"])
        assert result.exit_code == 0, result.output
        answers[name] = {**json.loads(result.stdout), "said": CliRunner().invoke(app, arguments).stdout}
    return answers


def folder_of(runs: dict[str, dict[str, object]], kind: str) -> Path:
    return Path(str(runs[kind]["run"]))


@pytest.mark.parametrize(
    ("kind", "second"), [("text", "naive_bayes"), ("several", "naive_bayes"), ("token", "dictionary")]
)
def test_a_run_shows_its_baselines_and_names_predict(
    runs: dict[str, dict[str, object]], kind: str, second: str
) -> None:
    metrics = runs[kind]["metrics"]
    assert isinstance(metrics, dict) and list(metrics) == ["majority", second, "tuned"]
    said = str(runs[kind]["said"])
    assert "most frequent label" in said and "the tuned model" in said
    assert f"tunesmith predict FILE --model {runs[kind]['run']}" in said and "tunesmith chat" not in said


def predicted(call: Program, model: Path, rows: Path, *more: str) -> list[dict[str, object]]:
    out = rows.with_suffix(".out")
    done = call("predict", rows, "--model", model, "--out", out, *more)
    assert done.code == 0, done.err
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def kept(run: Path) -> list[str]:
    rows = json.loads((run / "evaluate" / "tuned.json").read_text("utf-8"))["rows"]
    return [row["answer"] for row in rows]


@pytest.mark.parametrize("kind", list(KINDS))
def test_predict_says_what_the_evaluation_has_kept(
    call: Program, runs: dict[str, dict[str, object]], kind: str, tmp_path: Path
) -> None:
    run = folder_of(runs, kind)
    questions = tmp_path / "questions.jsonl"
    shutil.copyfile(run.parents[2] / "test.jsonl", questions)
    found = predicted(call, run, questions)
    told = kept(run)
    assert len(found) == len(told) == 12
    for row, answer in zip(found, told, strict=True):
        scores = row["score"] if isinstance(row["score"], list) else [row["score"]]
        assert all(share is None or 0 < share <= 1 for share in scores)
        if kind == "text":
            assert row["answer"] == answer
        elif kind in ("several", "beside"):
            assert row["answer"] == json.loads(answer) and all(share > 0.5 for share in scores)
        else:
            assert row["answer"] == answer.split() and len(scores) == len(row["tokens"])  # type: ignore[arg-type]
    moved = tmp_path / "moved"
    shutil.copytree(run / "ship" / ("adapter" if kind == "beside" else "safetensors"), moved)
    questions = Path(shutil.copyfile(questions, tmp_path / "again.jsonl"))
    more = ("--base", str(run.parents[2] / "base")) if kind == "beside" else ()
    assert predicted(call, moved, questions, *more) == found


def test_a_text_is_cut_into_words_as_in_training(
    call: Program, runs: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    run = folder_of(runs, "token")
    questions = write_rows(
        tmp_path / "q.jsonl", [{"text": "Lampe Ålesund-3 defekt, 张三🙂!"}, {"tokens": ["a", "b-c"]}]
    )
    first, second = predicted(call, run, questions)
    assert first["tokens"] == ["Lampe", "Ålesund", "-", "3", "defekt", ",", "张", "三", "🙂", "!"]
    assert second["tokens"] == ["a", "b-c"] and len(second["answer"]) == 2  # type: ignore[arg-type]
    own = write_rows(tmp_path / "own.jsonl", [{"mail": "two words", "tokens": ["x"]}, {"mail": ["a list", "too"]}])
    rows = predicted(call, run, own, "--column", "mail")
    assert [row["tokens"] for row in rows] == [["two", "words"], ["a list", "too"]]


def test_csv_rows_and_what_is_cut_off(call: Program, runs: dict[str, dict[str, object]], tmp_path: Path) -> None:
    questions = tmp_path / "q.csv"
    with questions.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "tokens"], ["1", "broken lamp"], ["2", " ".join(["lamp"] * 200)]])
    run = folder_of(runs, "token")
    done = call("predict", questions, "--model", run, "--out", tmp_path / "o.jsonl")
    assert "1 rows are longer than the 96 tokens" in done.out
    short, long = (json.loads(line) for line in (tmp_path / "o.jsonl").read_text("utf-8").splitlines())
    assert short["id"] == "1" and short["tokens"] == ["broken", "lamp"] and None not in short["score"]
    assert long["answer"][-1] == "O" and long["score"][-1] is None and long["score"][0] is not None


@pytest.mark.parametrize(
    ("kind", "row", "code"),
    [
        ("text", {"nothing": 1}, "cli.predict_no_question"),
        ("text", {"text": "  "}, "cli.predict_no_question"),
        ("text", {"text": "a \ud800"}, "cli.predict_broken"),
        ("token", {"tokens": []}, "cli.predict_tokens"),
        ("token", {"tokens": [1, 2]}, "cli.predict_tokens"),
        ("token", {"text": " "}, "cli.predict_tokens"),
    ],
)
def test_rows_without_a_question_are_refused(
    call: Program, runs: dict[str, dict[str, object]], kind: str, row: dict[str, object], code: str, tmp_path: Path
) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    questions = tmp_path / "q.jsonl"
    assert call("predict", questions, "--model", folder_of(runs, kind), "--json").error == code
    assert [each.name for each in tmp_path.iterdir()] == ["q.jsonl"]


@pytest.mark.parametrize("verb", ["chat", "serve"])
def test_nobody_talks_with_it(call: Program, runs: dict[str, dict[str, object]], verb: str) -> None:
    run, beside = folder_of(runs, "text"), folder_of(runs, "beside")
    for named in (run, run / "ship" / "safetensors", beside, beside / "ship" / "adapter"):
        refused = call(verb, named)
        assert refused.code == 2 and refused.err.startswith("models.gives_classes")
        assert "tunesmith predict FILE --model" in refused.err


def test_the_other_verbs_know_such_runs(call: Program, runs: dict[str, dict[str, object]], tmp_path: Path) -> None:
    text, token = folder_of(runs, "text"), folder_of(runs, "token")
    shown = call("data", "xray", text)
    labels = json.loads((text / "labels.json").read_text("utf-8"))["labels"]
    assert shown.code == 0 and any(label in shown.out for label in labels)
    assert call("data", "xray", token, "--json").json["rows"]
    assert "fates" in call("data", text, "--json").json
    assert call("data", "rejected", text, "--out", tmp_path / "rejected.jsonl").code == 0
    assert "accuracy" in call("runs", "list", "--runs", text.parents[1]).out
    assert "recipe.data.task" in call("runs", "diff", text, token).out
    assert call("verify", text, "--json").json["verified"] is True
    assert call("explain", "models.gives_classes").code == 0
