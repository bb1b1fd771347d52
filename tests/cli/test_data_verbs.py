"""Looking at rows, comparing data sets and naming their versions, as a user does it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_project import Program, write_tiny_recipe

ROWS = [{"prompt": f"question {number}", "completion": "yes"} for number in range(20)]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_check_says_what_becomes_of_the_rows_of_a_file(call: Program, tmp_path: Path) -> None:
    path = write(tmp_path / "faq.jsonl", [*ROWS, ROWS[0], {"prompt": "", "completion": "no"}])
    told = call("data", "check", path)
    assert told.code == 0 and "dropped: nothing is asked: 1" in told.out and "kept: 20" in told.out
    found = call("data", "check", path, "--json").json
    assert found["checked"] == "file"
    assert found["fates"] == {"dropped: empty_prompt": 1, "kept": 20, "merged: exact_duplicate_of_row": 1}
    refused = call("data", "check", path, "--strict", "--json")
    assert (refused.code, refused.error) == (2, "versions.rows_refused")
    assert call("data", "check", write(tmp_path / "good.jsonl", ROWS), "--strict").code == 0
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "row", "kind"),
    [
        ("classes.jsonl", {"text": "lost card", "label": "card"}, "text_class"),
        ("pairs.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c"}, "preference"),
        ("votes.jsonl", {"prompt": "a", "completion": "b", "label": True}, "kto"),
        ("text.jsonl", {"text": "plain"}, "text"),
    ],
)
def test_every_kind_of_file_is_known_by_its_columns(
    call: Program, tmp_path: Path, name: str, row: dict[str, object], kind: str
) -> None:
    (tmp_path / name).write_text(json.dumps(row) + "\n", "utf-8")
    shown = call("data", "sample", tmp_path / name, "--json").json["rows"]
    assert isinstance(shown, list) and len(shown) == 1
    content = shown[0]["content"]
    expected = {"preference": "chosen", "kto": "label", "text_class": "labels", "text": "text"}[kind]
    assert expected in content


def test_wrong_input_is_refused_by_code(call: Program, tmp_path: Path, run: Path) -> None:
    (tmp_path / "odd.jsonl").write_text('{"nonsense": 1}\n', "utf-8")
    (tmp_path / "recipe.yaml").write_text("name: [", "utf-8")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "a.jsonl").write_text('{"text": "a"}\n', "utf-8")
    write(tmp_path / "mixed" / "b.jsonl", ROWS)
    file = write(tmp_path / "a.jsonl", ROWS)
    cases = [
        (("check", tmp_path / "absent.jsonl"), "data.missing_path"),
        (("check", tmp_path / "odd.jsonl"), "data.unknown_layout"),
        (("check", tmp_path / "mixed"), "versions.no_one_kind"),
        (("check", tmp_path / "recipe.yaml"), "recipe.broken_yaml"),
        (("sample", file, "--split", "test"), "versions.no_table"),
        (("sample", run, "--split", "tset"), "versions.no_table"),
        (("sample", file, "--rows", "0"), "cli.bad_value"),
        (("diff", file), "cli.missing_argument"),
        (("diff", file, file, "--out", file), "recipe.exists"),
        (("card", file), "recipe."),
        (("card", tmp_path / "empty"), "core.not_a_run"),
    ]
    for words, code in cases:
        refused = call("data", *words, "--json")
        assert refused.code == 2 and refused.error.startswith(code), (words, refused.out)


def test_a_sample_is_drawn_by_its_seed(call: Program, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*ROWS, {"prompt": "\x1b[31mred", "completion": "\u202eabc"}])
    draws = [call("data", "sample", path, "--rows", "5", "--seed", seed, "--json").json["rows"] for seed in "001"]
    assert draws[0] == draws[1] != draws[2]
    told = call("data", "sample", path, "--rows", "99")
    assert told.code == 0 and "question 7" in told.out
    assert "\x1b[31m" not in told.out and "\u202e" not in told.out


def test_a_run_is_checked_compared_and_named(call: Program, run: Path, recipe: Path, tmp_path: Path) -> None:
    checked = call("data", "check", run, "--json").json
    assert checked["proved"] == ["hashes", "leaks", "version", "ledger", "sources"]
    version = checked["version"]
    card = call("data", "card", run, "--json").json
    assert card["version"] == version and Path(card["card"]["md"]).is_file()  # type: ignore[index]
    listed = call("data", "versions", "--runs", run.parent.parent, "--json").json["versions"]
    assert isinstance(listed, list) and {"version": version, "runs": [str(run)]} in listed
    by_version = call("data", "diff", str(version)[:12], recipe, "--runs", run.parent.parent, "--json").json
    assert by_version["changes"] == []
    unknown = call("data", "diff", "0123456789abcdef", recipe, "--runs", run.parent.parent, "--json")
    assert (unknown.code, unknown.error) == (2, "versions.unknown_version")
    same = call("data", "diff", run, recipe, "--json").json
    assert same["changes"] == [] and same["one"]["version"] == same["other"]["version"] == version  # type: ignore[index]


def test_a_diff_names_rows_and_reasons_and_writes_what_they_say(call: Program, tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", ROWS)
    other = write(tmp_path / "other.jsonl", [*ROWS[1:], {"prompt": "question 5!", "completion": "no"}, ROWS[1]])
    out = tmp_path / "diff.jsonl"
    found = call("data", "diff", one, other, "--out", out, "--json").json
    assert found["same"] == 19
    told = call("data", "diff", one, other)
    assert told.code == 0 and "removed" in told.out and "added" in told.out
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert {line["kind"] for line in lines} == {"removed", "added"}
    gone = next(line for line in lines if line["kind"] == "removed")
    assert gone["before"]["content"]["messages"][0]["content"] == "question 0" and "after" not in gone
    chinese = call("data", "diff", one, other, "--lang", "zh")
    assert "减少 1 行" in chinese.out


def test_an_edited_run_is_refused(call: Program, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / run.name
    shutil.copytree(run, copy)
    path = copy / "data" / "train.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    for verb in ("check", "sample"):
        refused = call("data", verb, copy, "--json")
        assert (refused.code, refused.error) == (2, "core.hash_differs")


def test_near_prompts_of_stored_splits_are_looked_for_where_the_recipe_asks(
    call: Program, base: Path, tmp_path: Path
) -> None:
    recipe = write_tiny_recipe(tmp_path, base, rows=(16, 6, 6))
    stated = recipe.read_text("utf-8").replace("  sources:", "  clean: {near_duplicates: 0.98}\n  sources:", 1)
    recipe.write_text(stated, "utf-8")
    made = call("data", recipe, "--runs", tmp_path / "runs", "--json")
    assert made.code == 0, made.out
    told = call("data", recipe, "--runs", tmp_path / "runs", "--lang", "zh")
    assert "    保留：" in told.out and "kept" not in told.out
    assert told.out.count("data_card.md") == 1
    checked = call("data", "check", str(made.json["run"]), "--json")
    assert checked.json["proved"] == ["hashes", "leaks", "near", "version", "ledger", "sources"]


def test_a_corpus_is_built_and_told_of(call: Program, tmp_path: Path) -> None:
    texts = [{"text": " ".join(f"word{number}x{place}" for place in range(20))} for number in range(30)]
    write(tmp_path / "texts.jsonl", [*texts, texts[0], {"text": texts[1]["text"] + " again"}])
    data = "{rows: text, sources: [{path: texts.jsonl}], clean: {near_duplicates: 0.7}}"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {{base: minilm-l6}}\ndata: {data}\nstages: [{{name: read}}]\n", "utf-8")
    told = call("data", "corpus", recipe, "--out", tmp_path / "out", "--json")
    assert told.code == 0, told.out
    wanted = {"dropped: near_duplicate_of_row": 1, "kept": 30, "merged: exact_duplicate_of_row": 1}
    assert told.json["fates"] == wanted
    assert sum(told.json["splits"].values()) == 30  # type: ignore[attr-defined]
    again = call("data", "corpus", recipe, "--out", tmp_path / "out", "--lang", "zh")
    assert again.code == 0 and "保留：30 行" in again.out and "duplicate" not in again.out
    refused = call("data", "corpus", recipe, "--out", tmp_path, "--json")
    assert (refused.code, refused.error) == (2, "data.corpus_exists")
    alone = call("data", "corpus", recipe, "--out", tmp_path / "other", "--address", "head:6379", "--json")
    assert (alone.code, alone.error) == (2, "corpus.address") and not (tmp_path / "other").exists()
    _look_at_corpus(call, tmp_path / "out", str(told.json["version"]), recipe)


def _look_at_corpus(call: Program, out: Path, version: str, recipe: Path) -> None:
    """Every verb that looks at rows either knows a corpus or refuses it by name."""
    checked = call("data", "check", out, "--json").json
    assert (checked["version"], checked["checked"]) == (version, "corpus") and len(list(checked["proved"])) == 4  # type: ignore[call-overload]
    assert call("data", "check", out, "--strict", "--json").error == "versions.rows_refused"
    shown = call("data", "sample", out, "--rows", "2", "--json").json["rows"]
    assert len(list(shown)) == 2 and "word" in str(shown)  # type: ignore[call-overload]
    assert call("data", "sample", out, "--split", "dev", "--json").error == "versions.no_table"
    card = call("data", "card", out, "--json").json
    assert card["version"] == version and len(dict(card["card"])) == 2  # type: ignore[call-overload]
    changes = out.with_name("changes.jsonl")
    same = call("data", "diff", out, recipe, "--out", changes, "--json").json
    assert same["same"] + len(changes.read_text("utf-8").splitlines()) == 30  # type: ignore[operator]
    assert {each["change"] for each in same["changes"]} <= {"moved"}  # type: ignore[attr-defined]
    for verb in ("xray", "rejected"):
        assert call("data", verb, out, "--json").error == "corpus.verb"


def test_pictures_are_checked_shown_told_of_and_compared(
    call: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pytest.importorskip("PIL.Image")
    for place in range(12):
        path = tmp_path / "rows" / ("cat" if place % 2 else "dog") / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (9, 6), (place * 20, 0, 0)).save(path)
    (tmp_path / "rows" / "cat" / "broken.png").write_bytes(b"no")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: {base: smollm2-135m}\ndata: {task: image_class, sources: [{path: rows}]}\nstages: [{name: s}]\n"
    )
    monkeypatch.chdir(tmp_path)
    for rows in (tmp_path / "rows", recipe):
        found = call("data", "check", rows, "--json").json
        assert found["fates"] == {"dropped: media_broken": 1, "kept": 12}
        assert call("data", "card", rows, "--json").code == 0
        assert "9 × 6" in (tmp_path / "data_card.md").read_text("utf-8")
        shown = call("data", "xray", rows, "--rows", "2", "--json").json
        assert (tmp_path / "xray.html").read_text("utf-8").count("<figure>") == 2 and len(list(shown["rows"])) == 2  # type: ignore[call-overload]
        assert call("data", "xray", rows, "--json").error == "recipe.exists"
        assert call("data", "card", rows, "--json").error == "recipe.exists"
        for name in ("data_card.md", "data_card.html", "xray.html"):
            (tmp_path / name).unlink()
    assert call("data", "sample", tmp_path / "rows", "--json").code == 0
    shutil.copytree(tmp_path / "rows", tmp_path / "before")
    image.new("RGB", (9, 6), (0, 99, 0)).save(tmp_path / "rows" / "dog" / "0.png")
    for other, same in ((recipe, 12), (tmp_path / "before", 11)):
        assert call("data", "diff", tmp_path / "rows", other, "--json").json["same"] == same
    assert call("run", recipe, "--json").error == "compat.untrained_task"
    assert call("data", recipe, "--json").code == 0, "rows are made ready, though nothing learns from them"


def test_rows_about_pictures_become_a_run_that_can_be_looked_at(
    call: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in range(8):
        path = tmp_path / "rows" / "ab"[place % 2] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(place).integers(0, 256, (6, 8, 3), np.uint8)).save(path)
    recipe = tmp_path / "pictures.yaml"
    data = "data: {task: image_class, sources: [{path: rows}], augment: {images: {crop: 0.5}}}"
    recipe.write_text(f"name: pictures\nmodel: {{base: smollm2-135m}}\n{data}\nstages: [{{name: one}}]\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    made = call("data", recipe, "--runs", "kept", "--json").json
    assert isinstance(made["run"], str) and made["fates"] == {"kept": 8, "kept: made_by_images": 5}
    for verb in (("data", "card", "kept"), ("verify", "kept"), ("data", "sample", "kept")):
        assert call(*verb).code == 0, verb
    assert call("data", "diff", recipe, "kept", "--json").json["same"] == 13
    assert call("data", "xray", "kept", "--rows", "13").code == 0
    assert (tmp_path / "xray.html").read_text("utf-8").count("base64,") == 11, "children beside the six that were read"
    refused = call("train", "kept", "--json")
    assert (refused.code, refused.error) == (2, "compat.untrained_task")
    next((tmp_path / "kept").rglob("data/media/*/*.png")).write_bytes(b"no picture")
    assert call("verify", "kept", "--json").error == "core.hash_differs"
