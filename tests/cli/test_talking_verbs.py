"""Verbs that need no model: init, explain, methods, doctor, and how a call can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_project import Program

from tunesmith.compat.matrix import support_matrix
from tunesmith.messages import error_codes
from tunesmith.recipe.load import load_recipe


def test_init_writes_what_can_be_run_and_overwrites_nothing(
    call: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = call("init", "project", "--json").json
    recipe = load_recipe(Path(str(answer["recipe"])))
    for source in [*recipe.data.sources, *recipe.data.validation_sources, *recipe.data.test_sources]:
        rows = (tmp_path / "project" / source.path).read_text("utf-8").splitlines()
        assert json.loads(rows[0])["messages"][0]["role"] == "system"
    before = (tmp_path / "project" / "recipe.yaml").read_bytes()
    again = call("init", "project", "--json")
    assert (again.code, again.error) == (2, "recipe.exists")
    assert (tmp_path / "project" / "recipe.yaml").read_bytes() == before
    assert call("init").code == 0
    assert (tmp_path / "recipe.yaml").is_file()


def test_init_leaves_no_half_project(call: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    refused = call("init", "file/project", "--json")
    assert refused.code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_explain_knows_every_code(call: Program) -> None:
    assert list(call("explain", "--json").json["codes"]) == error_codes()  # type: ignore[call-overload]
    words = call("explain", "data.empty_file").out
    assert "data.empty_file" in words and "Next:" in words
    near = call("explain", "data.empty_fiel")
    assert near.code == 2 and "data.empty_file" in near.err


def test_methods_are_those_of_the_specs(call: Program) -> None:
    found = call("methods", "--json").json
    assert {"full", "subset", "lora"} <= set(found["adapt"])  # type: ignore[call-overload]
    assert "supervised" in found["objective"]  # type: ignore[operator]
    assert found["task"] == ["chat", "text_class", "token_class"]
    assert found["quantize"] == ["none", "nf4", "int8"]
    assert "gguf-q8_0" in found["format"]  # type: ignore[operator]


def test_methods_print_the_matrix_of_the_file(call: Program) -> None:
    found = call("methods", "--json").json["matrix"]
    matrix = support_matrix()
    assert found == matrix.as_json()
    told = call("methods").out
    for axis, values in matrix.axes.items():
        assert all(value in told for value in values), axis
    assert all(code in told for code in matrix.codes)
    columns = matrix.columns(("task", "runtime"))
    lines = {line.strip() for line in told.splitlines()}
    for value, signs in matrix.rows("adapt", columns):
        assert any(line.startswith(value) and line.endswith("  ".join(signs)) for line in lines), value


def test_the_schema_of_a_recipe_is_printed_for_editors(call: Program) -> None:
    schema = json.loads(call("methods", "--schema").out)
    assert {"model", "data", "stages"} <= set(schema["required"])
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["runn"], "cli.unknown_verb"),
        (["runs", "lst"], "cli.unknown_verb"),
        (["run"], "cli.missing_argument"),
        (["run", "recipe.yaml", "--sett", "a=b"], "cli.unknown_option"),
        (["plan", "recipe.yaml", "--set", "a=b"], "cli.unknown_option"),
        (["run", "a.yaml", "b.yaml"], "cli.bad_usage"),
        (["serve", ".", "--port", "http"], "cli.bad_value"),
        (["serve", ".", "--port", "70000"], "cli.bad_value"),
        (["explain", "--lang", "fr"], "cli.bad_language"),
        (["predict", "x.jsonl"], "cli.missing_argument"),
        (["run", "absent.yaml"], "recipe.missing_file"),
        (["run", "."], "recipe.missing_file"),
        (["train", "absent"], "core.not_a_run"),
        (["serve", "absent"], "core.not_a_run"),
        (["verify", "absent"], "core.not_a_run"),
        (["runs", "diff", "absent", "absent"], "core.not_a_run"),
        (["doctor", "--offline", "absent.yaml"], "recipe.missing_file"),
    ],
)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_wrong_call_has_a_code_and_a_next_step(
    call: Program, arguments: list[str], code: str, language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_LANG", language)
    told = call(*arguments)
    assert told.code == 2 and told.out == "" and told.err.startswith(code)
    assert ("下一步" if language == "zh" else "Next:") in told.err
    assert call(*arguments, "--json").error == code
    assert list(tmp_path.iterdir()) == []


def test_runs_list_of_an_empty_place(call: Program, tmp_path: Path) -> None:
    assert call("runs", "list", "--runs", tmp_path, "--json").json == {"runs": []}
    assert "tunesmith init" in call("runs", "list", "--runs", tmp_path).out


def test_doctor_names_every_file_of_a_recipe(call: Program, recipe: Path, tmp_path: Path) -> None:
    found = call("doctor", "--offline", recipe, "--json")
    assert found.code == 0 and found.json["ready"] is True
    text = recipe.read_text("utf-8").replace("train.jsonl", "gone.jsonl")
    (tmp_path / "recipe.yaml").write_text(text, "utf-8")
    broken = call("doctor", "--offline", tmp_path / "recipe.yaml", "--json")
    bad = [each["detail"] for each in broken.json["findings"] if each["state"] == "bad"]  # type: ignore[attr-defined]
    assert broken.code == 2 and any("gone.jsonl" in detail for detail in bad)


def test_doctor_calibrates_and_keeps_the_figures(
    call: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    monkeypatch.setattr("tunesmith.runtime.peak.SHAPES", ((8, 16, 32), (16, 32, 8)))
    monkeypatch.setattr("tunesmith.cli.calibrate.available_cores", lambda: 1)
    monkeypatch.setattr("tunesmith.cli.doctor.available_cores", lambda: 1)

    def calibrated() -> dict[str, str]:
        found = call("doctor", "--json").json["findings"]
        return next(each for each in found if each["name"] == "calibrated speed")  # type: ignore[attr-defined]

    assert calibrated()["state"] == "good" and "not measured" in calibrated()["detail"]
    told = call("doctor", "--calibrate")
    assert told.code == 0 and told.out.count("GFLOP/s") == 6 and str(tmp_path / "calibration.json") in told.out
    assert " 8 x    16 x    32 " in told.out and "bfloat16" in told.out and "float32" in told.out
    made = call("doctor", "--calibrate", "--json").json["calibrations"]
    assert [each["dtype"] for each in made] == ["bfloat16", "float32"]  # type: ignore[attr-defined]
    assert "GFLOP/s bfloat16" in calibrated()["detail"] and "GFLOP/s float32" in calibrated()["detail"]

    monkeypatch.setattr("tunesmith.cli.doctor.available_cores", lambda: 3)
    stale = calibrated()
    assert stale["state"] == "warning" and stale["detail"] == "threads: 1 -> 3"
    assert stale["mend"] == "tunesmith doctor --calibrate"


def test_doctor_looks_at_the_machine(call: Program) -> None:
    found = call("doctor", "--json").json["findings"]
    names = [each["name"] for each in found]  # type: ignore[attr-defined]
    assert {"Python", "torch", "cores", "free memory", "may write", "smollm2-135m", "minilm-l6"} <= set(names)
    mended = [each for each in found if each["state"] != "good"]  # type: ignore[attr-defined]
    assert all(each["mend"] for each in mended)
