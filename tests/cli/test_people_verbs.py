"""Agreement, export and unsealing from the terminal."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tiny_project import Program, write_tiny_recipe

from tunesmith.data.pii.sealed import seal

VALUES = {"<PHONE_1>": "+1 555-0100", "<NAME_1>": 'Ada "the Countess" Lovelace'}
KEY = "k" * 32


def tasks(path: Path, *votes: tuple[str, str]) -> Path:
    rows = [
        {
            "id": number,
            "data": {"text": f"text {number}"},
            "annotations": [
                {
                    "completed_by": who,
                    "was_cancelled": False,
                    "result": [
                        {"from_name": "tone", "to_name": "text", "type": "choices", "value": {"choices": [said]}}
                    ],
                }
                for who, said in enumerate(pair, 1)
            ],
        }
        for number, pair in enumerate(votes)
    ]
    path.write_text(json.dumps(rows), "utf-8")
    return path


def test_agreement_in_figures_and_words(call: Program, tmp_path: Path) -> None:
    path = tasks(tmp_path / "tasks.json", ("a", "a"), ("b", "b"), ("a", "b"))
    told = call("data", "agreement", path)
    assert told.code == 0 and "alpha" in told.out and "0.444" in told.out and "little" in told.out
    assert "一致性不足" in call("data", "agreement", path, "--lang", "zh").out
    (found,) = call("data", "agreement", path, "--json").json["questions"]  # type: ignore[misc]
    assert found["alpha"] == pytest.approx(4 / 9) and found["verdict"] == "unreliable"
    assert found["pairs"] == [{"one": "1", "other": "2", "units": 3, "agreed": 2 / 3, "kappa": pytest.approx(0.4)}]
    alone = tmp_path / "alone.json"
    alone.write_text(json.dumps([{"data": {"text": "x"}, "annotations": []}]), "utf-8")
    assert call("data", "agreement", alone, "--json").error == "data.nothing_answered_twice"


def test_export_of_rows_and_of_annotations(call: Program, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "fine", "label": "good"}\n{"text": "poor", "label": "bad"}\n', "utf-8")
    out = tmp_path / "tasks.json"
    told = call("data", "export", rows, "--to", "label-studio", "--out", out)
    assert told.code == 0 and len(json.loads(out.read_text("utf-8"))) == 2
    assert "<Choices" in out.with_suffix(".xml").read_text("utf-8")
    assert call("data", "export", rows, "--to", "argilla", "--out", out, "--json").error == "recipe.exists"
    assert call("data", "export", rows, "--to", "excel", "--json").error == "data.unknown_tool"
    voted = tasks(tmp_path / "voted.json", ("a", "b"))
    found = call("data", "export", voted, "--to", "argilla", "--out", tmp_path / "records.json", "--json").json
    assert found["items"] == 1
    (record,) = json.loads((tmp_path / "records.json").read_text("utf-8"))
    assert record["responses"]["tone"] == [{"value": "a", "user_id": "1"}, {"value": "b", "user_id": "2"}]
    wrong = call("data", "export", voted, "--to", "argilla", "--split", "test", "--out", tmp_path / "x.json", "--json")
    assert wrong.error == "versions.no_table"
    chats = tmp_path / "chats.jsonl"
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    chats.write_text(json.dumps({"messages": [{"role": "user", "content": "a"}, called]}) + "\n", "utf-8")
    refused = call("data", "export", chats, "--to", "argilla", "--out", tmp_path / "y.json", "--json")
    assert refused.error == "data.nothing_for_people"


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    pytest.importorskip("cryptography")
    path = tmp_path / "placeholders.sealed"
    seal(VALUES, KEY.encode(), path)
    return path


def key_file(folder: Path, mode: int = 0o600, key: str = KEY + "\n") -> Path:
    path = folder / "key"
    path.write_text(key, "utf-8")
    path.chmod(mode)
    return path


def test_unsealing_gives_values_back_to_nobody_else(call: Program, tmp_path: Path, sealed: Path) -> None:
    key, out = key_file(tmp_path), tmp_path / "values.json"
    told = call("data", "unseal", sealed, "--out", out, "--key-file", key)
    assert told.code == 0 and json.loads(out.read_text("utf-8")) == VALUES
    assert out.stat().st_mode & 0o777 == 0o600
    said = told.out + told.err
    assert not any(value in said for value in VALUES.values()) and KEY not in said
    assert call("data", "unseal", sealed, "--out", out, "--key-file", key, "--json").error == "recipe.exists"


def test_a_file_with_placeholders_gets_its_values_back(call: Program, tmp_path: Path, sealed: Path) -> None:
    key = key_file(tmp_path)
    rows = tmp_path / "answers.jsonl"
    rows.write_text('{"a": "call <PHONE_1>, <NAME_1>"}\n{"a": "<NAME_1> <b>"}\n', "utf-8")
    out = tmp_path / "plain.jsonl"
    found = call("data", "unseal", sealed, "--in", rows, "--out", out, "--key-file", key, "--json").json
    assert found["places"] == 3 and out.stat().st_mode & 0o777 == 0o600
    name = VALUES["<NAME_1>"]
    lines = [json.loads(line)["a"] for line in out.read_text("utf-8").splitlines()]
    assert lines == [f"call +1 555-0100, {name}", f"{name} <b>"]
    (tmp_path / "note.txt").write_text("ask <NAME_1>\n", "utf-8")
    call("data", "unseal", sealed, "--in", tmp_path / "note.txt", "--out", tmp_path / "plain.txt", "--key-file", key)
    assert (tmp_path / "plain.txt").read_text("utf-8") == f"ask {name}\n"
    rows.write_text('{"a": "<NAME_7>"}\n', "utf-8")
    refused = call("data", "unseal", sealed, "--in", rows, "--out", tmp_path / "no", "--key-file", key, "--json")
    assert refused.error == "data.unknown_placeholders" and not (tmp_path / "no").exists()


def test_a_key_that_others_could_read_is_refused(call: Program, tmp_path: Path, sealed: Path) -> None:
    def error(*more: object) -> str:
        return call("data", "unseal", sealed, "--out", tmp_path / "out", *map(str, more), "--json").error

    assert error("--key-file", key_file(tmp_path, 0o640)) == "data.key_file_open"
    assert error("--key-file", key_file(tmp_path, 0o604)) == "data.key_file_open"
    key = key_file(tmp_path)
    os.symlink(key, tmp_path / "link")
    assert error("--key-file", tmp_path / "link") == "data.key_file_open"
    assert error("--key-file", tmp_path) == "data.key_file_open"
    assert error("--key-file", tmp_path / "none") == "core.missing_file"
    assert error("--key-file", key_file(tmp_path, key="w" * 32)) == "data.wrong_key"
    assert error() == "data.no_key_named"
    assert not (tmp_path / "out").exists()
    assert call("data", "unseal", tmp_path / "none", "--out", tmp_path / "out", "--json").error == "core.not_a_run"


def test_the_values_of_a_run_come_back_with_the_key_that_its_recipe_names(
    call: Program, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cryptography")
    recipe = write_tiny_recipe(tmp_path, base)
    rows = [
        {"prompt": f"Who is number {place}?", "completion": f"Mail me: user{place}@example.net"} for place in range(40)
    ]
    for name, part in (("train", rows[:30]), ("validation", rows[30:35]), ("test", rows[35:])):
        path = tmp_path / "tickets" / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in part), "utf-8")
    pii = "data:\n  clean: {pii: {action: mask, types: [email], key: MY_KEY}}\n"
    recipe.write_text(recipe.read_text("utf-8").replace("data:\n", pii), "utf-8")
    monkeypatch.setenv("MY_KEY", KEY)
    made = call("data", recipe, "--runs", tmp_path / "runs", "--json")
    assert made.code == 0, made.out + made.err
    out, run = tmp_path / "values.json", str(made.json["run"])
    assert call("data", "unseal", run, "--out", out, "--json").json["placeholders"] == 40
    assert set(json.loads(out.read_text("utf-8")).values()) == {f"user{place}@example.net" for place in range(40)}
    monkeypatch.delenv("MY_KEY")
    assert call("data", "unseal", run, "--out", tmp_path / "no", "--json").error == "data.no_key"
