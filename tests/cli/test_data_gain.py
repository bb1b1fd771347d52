"""`tunesmith data gain`: the same recipe learns from raw and from cleaned rows and is asked the same questions."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
from class_rows import several_rows, text_rows, token_rows, write_rows
from tiny_project import Program

from tunesmith.models.tiny import tiny_chat_model, tiny_encoder

RECIPE = """
name: intents
model: {{base: ./base, dtype: float32}}
data:
  task: {task}
  rows: {rows}
  sources: [{{path: rows.jsonl}}]
  clean: {clean}
stages:
  - name: learn
    adapt: {{kind: lora, rank: 4}}
    train: {{epochs: 2, learning_rate: 2e-2, batch_size: 8, max_length: 512}}
evaluate: {{max_rows: 12}}
runtime: {{threads: 1, device: cpu}}
"""
CLEAN = "{repair: {rules: [html]}, near_duplicates: 0.7, pii: {action: mask, types: [email]}}"


def dirty_rows() -> list[dict[str, object]]:
    """Sixty messages; every third stands twice, with marks of HTML around it the second time."""
    clean = text_rows(60)
    return [*clean, *({**row, "text": f"<p>{row['text']}</p>"} for row in clean[::3])]


def write_project(
    folder: Path, rows: list[dict[str, object]], clean: str = CLEAN, task: str = "text_class", kind: str = ""
) -> Path:
    (tiny_chat_model if task == "chat" else tiny_encoder)(folder / "base", spread=0.1)
    write_rows(folder / "rows.jsonl", rows)  # type: ignore[arg-type]
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(task=task, rows=kind or task, clean=clean), "utf-8")
    return recipe


def messages_of(run: str, split: str) -> list[str]:
    import polars as pl

    return pl.read_parquet(Path(run) / "data" / f"{split}.parquet")["text"].to_list()


def accuracy_of(run: str) -> float:
    found = json.loads((Path(run) / "evaluate" / "tuned.json").read_text("utf-8"))["metrics"]["accuracy"]
    assert isinstance(found, float)
    return found


def test_raw_rows_are_learned_in_as_many_steps_and_the_same_questions_are_asked(call: Program, tmp_path: Path) -> None:
    recipe = write_project(tmp_path, dirty_rows())
    answered = call("data", "gain", recipe, "--runs", tmp_path / "runs", "--seeds", "2", "--json")
    assert answered.code == 0, answered.out + answered.err
    found = json.loads(answered.out)
    raw, cleaned = found["raw"], found["cleaned"]
    assert len(raw) == len(cleaned) == 2
    assert len({each["run"] for each in (*raw, *cleaned)}) == 4
    assert [each["steps"] for each in raw] == [each["steps"] for each in cleaned]
    assert raw[0]["rows"] > cleaned[0]["rows"]
    learned = messages_of(raw[0]["run"], "train")
    assert any(text.startswith("<p>") for text in learned), "as the file has them"
    assert messages_of(raw[0]["run"], "test") == messages_of(cleaned[0]["run"], "test")
    asked = {text for split in ("test", "validation") for text in messages_of(cleaned[0]["run"], split)}
    assert not asked & {text.removeprefix("<p>").removesuffix("</p>") for text in learned}, "no copy of what is asked"
    (accuracy,) = (each for each in found["gain"] if each["metric"] == "accuracy")
    means = [statistics.fmean(accuracy_of(each["run"]) for each in side) for side in (raw, cleaned)]
    assert [accuracy["raw"], accuracy["cleaned"]] == pytest.approx(means)
    assert accuracy["gained"]["value"] == pytest.approx(means[1] - means[0])
    assert accuracy["gained"]["low"] <= accuracy["gained"]["value"] <= accuracy["gained"]["high"]


def test_it_goes_on_where_it_was_and_says_what_it_found(call: Program, tmp_path: Path) -> None:
    recipe = write_project(tmp_path, dirty_rows())
    first, second = (call("data", "gain", recipe, "--runs", tmp_path / "runs") for _ in range(2))
    assert first.code == second.code == 0, first.err + second.err
    assert first.out.splitlines()[-6:] == second.out.splitlines()[-6:], "nothing was trained again"
    assert len(list((tmp_path / "runs").glob("*/*/manifest.json"))) == 3, "two runs and the folder of raw rows"
    assert "gained" in second.out


@pytest.mark.parametrize(
    ("task", "kind"), [("token_class", "token_class"), ("text_class", "multi_label"), ("chat", "chat")]
)
def test_rows_of_every_kind_come_back_as_they_were(call: Program, tmp_path: Path, task: str, kind: str) -> None:
    rows = {"token_class": token_rows(60), "multi_label": several_rows(60), "chat": chats()}[kind]
    twice = [*rows, *(dict(row) for row in rows[::3])]
    recipe = write_project(tmp_path, twice, "{}", task, kind)
    answered = call("data", "gain", recipe, "--runs", tmp_path / "runs", "--json")
    assert answered.code == 0, answered.out + answered.err
    found = json.loads(answered.out)
    assert found["raw"][0]["rows"] > found["cleaned"][0]["rows"]


def chats() -> list[dict[str, object]]:
    """Conversations, one of them with a call of a tool."""
    call = {"name": "order_state", "arguments": {"order": "A-7"}, "id": "1"}
    turns: list[list[dict[str, object]]] = [
        [{"role": "user", "content": str(row["text"])}, {"role": "assistant", "content": str(row["label"])}]
        for row in text_rows(59)
    ]
    turns.append(
        [
            {"role": "user", "content": "Where is order A-7?"},
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call, "id": "1"}]},
            {"role": "tool", "content": "sent", "tool_call_id": "1"},
            {"role": "assistant", "content": "It has been sent."},
        ]
    )
    return [{"messages": each} for each in turns]


def test_clean_rows_have_no_gain_to_measure(call: Program, tmp_path: Path) -> None:
    refused = call("data", "gain", write_project(tmp_path, text_rows(60)), "--runs", tmp_path / "runs", "--json")
    assert refused.code != 0
    assert json.loads(refused.out)["error"]["code"] == "data.nothing_cleaned"
