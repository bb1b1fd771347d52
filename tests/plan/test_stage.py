"""The plan as a stage of a run: its files, its events, what blocks, and what training tells it back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fits import make_job

from tunesmith import lifecycle
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.core.files import read_json, sha256_file, write_manifest
from tunesmith.core.run import Run
from tunesmith.data.samples.tickets import write_tickets
from tunesmith.messages import render, set_language
from tunesmith.models.catalog import find
from tunesmith.models.packed import Features
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.plan.forecast import Machine, ProbeResult, load_records
from tunesmith.plan.make import Base, Prepared, announce, plan_run, refuse_blocked
from tunesmith.plan.report import Plan, as_markdown, plan_json, plan_lines
from tunesmith.plan.track import Outcome, after_fit, after_probe, raised_to
from tunesmith.recipe.recipe import Recipe
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.local import LocalRuntime
from tunesmith.train.loop import fit
from tunesmith.train.probe import step_cost

RECIPE = """
name: planned
model: {{base: {base}, dtype: float32}}
data:
  sources: [{{path: train.jsonl}}]
  validation_sources: [{{path: validation.jsonl}}]
  test_sources: [{{path: test.jsonl}}]
stages: [{{name: instruct, train: {{epochs: 1, batch_size: 8, max_length: 2048, max_steps: 3}}}}]
evaluate: {{metrics: [exact_match], max_new_tokens: 4, examples: 0, machine_cost_per_hour: 2.0}}
ship: {{formats: [safetensors]}}
runtime: {{threads: 1, device: cpu}}
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> lifecycle.Work:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    base = tiny_chat_model(tmp_path / "base", spread=0.1, context=2048)
    write_tickets(tmp_path, train=32, validation=8, test=8, seed=1)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(base=base), "utf-8")
    return lifecycle.start(recipe, (), tmp_path / "runs", ())


def listened(work: lifecycle.Work, seen: list[Event]) -> lifecycle.Work:
    return lifecycle.reopen(work.path, (seen.append,))


def test_the_stage_writes_says_and_learns(work: lifecycle.Work) -> None:
    seen: list[Event] = []
    work = listened(work, seen)
    lifecycle.prepare_data(work)
    lifecycle.plan(work)
    files = work.run.manifest()["files"]
    assert isinstance(files, dict)
    for name in ("plan.json", "plan.md"):
        assert files[name] == sha256_file(work.path / name)
    kinds = [event.kind for event in seen]
    assert kinds.count("readiness") == 1 and kinds.count("forecast") == 1
    stated = read_json(work.path / "plan.json")
    assert stated["readiness"]["state"] == "risky"  # type: ignore[index]
    advised = [event.values["code"] for event in seen if event.kind == "advice"]
    listed = [each["rule"] for part in ("warnings", "advice") for each in stated[part]]  # type: ignore[attr-defined]
    assert advised == listed

    seen.clear()
    lifecycle.train(work)
    told = {event.kind: event.values for event in seen}
    assert told["forecast"]["basis"] == "probe" and told["probe"]["stage"] == "instruct"
    error = told["forecast_error"]
    assert error["actual_seconds"] == pytest.approx(told["fit_end"]["seconds"], abs=1e-3)
    assert isinstance(error["seconds"], float) and error["seconds"] > 0
    assert [each.basis for each in load_records()] == ["formula", "probe"]
    assert [each.actual_seconds for each in load_records()] == pytest.approx([error["actual_seconds"]] * 2, abs=1e-3)


def test_the_probe_moves_nothing(tmp_path: Path) -> None:
    base = tiny_chat_model(tmp_path / "base", spread=0.1)
    settings = {"epochs": 1.0, "max_steps": 3}
    adapt = {"lora_dropout": 0.1}
    ends = []
    for name, probes in (("plain", False), ("probed", True)):
        job = make_job(base, tmp_path / name, LocalRuntime(RuntimeSpec(threads=1)), settings=settings, adapt=adapt)
        before = {key: each.detach().clone() for key, each in job.policy.named_parameters()}
        if probes:
            cost = step_cost(job)
            assert cost.seconds_per_token > 0 and cost.peak_bytes > 0
            assert all(torch.equal(before[key], each) for key, each in job.policy.named_parameters())
            assert all(each.grad is None for each in job.policy.parameters())
        fit(job)
        ends.append({key: each.detach().clone() for key, each in job.policy.named_parameters()})
    assert all(torch.equal(left, ends[1][key]) for key, left in ends[0].items()), "the fit ends with the same bytes"


def test_a_resumed_fit_is_not_probed_again(work: lifecycle.Work) -> None:
    for stage in (lifecycle.prepare_data, lifecycle.plan, lifecycle.train):
        stage(work)
    manifest = work.run.manifest()
    stages = {name: facts for name, facts in manifest["stages"].items() if name != "train"}
    write_manifest(work.path, {**manifest, "stages": stages})
    seen: list[Event] = []
    lifecycle.train(listened(work, seen))
    kinds = [event.kind for event in seen]
    assert "resume" in kinds and "probe" not in kinds
    (error,) = [event.values for event in seen if event.kind == "forecast_error"]
    assert error["basis"] == "probe", "what the probe of the first attempt told is still known"


def test_a_run_that_is_blocked_stops_with_its_reasons(work: lifecycle.Work, monkeypatch: pytest.MonkeyPatch) -> None:
    lifecycle.prepare_data(work)
    monkeypatch.setattr(lifecycle, "free_memory_bytes", lambda: 1_000_000)
    with pytest.raises(TunesmithError, match=r"plan\.blocked") as caught:
        lifecycle.plan(work)
    assert "plan.md" in str(caught.value.facts["path"])
    assert (work.path / "plan.md").is_file(), "what was found is kept"
    assert work.run.stage("plan") is None
    for language in ("en", "zh"):
        words = render(caught.value, language)  # type: ignore[arg-type]
        assert words.cause and "{" not in words.cause
    monkeypatch.undo()
    lifecycle.plan(work)
    assert work.run.stage("plan") is not None, "mended, the same command goes on"


# --------------------------------------------------------------------------------------- without a run

SMOL_CONFIG: dict[str, object] = {
    "model_type": "llama",
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49_152,
    "tie_word_embeddings": True,
}
MACHINE = Machine("cpu", "bfloat16", 600e9, 20 * 2**30, 0.5)


def planned(tmp_path: Path, licence: str = "Apache-2.0", test_rows: int = 2) -> Plan:
    row = Features(0, tuple(range(40)), (0.0,) * 30 + (1.0,) * 10)
    recipe = Recipe.model_validate(
        {
            "model": {"base": "smollm2-135m"},
            "data": {"sources": [{"path": "a.jsonl"}]},
            "stages": [{"name": "s", "train": {"learning_rate": 2e-4}}],
        }
    )
    prepared = Prepared(
        {"train": [row] * 60, "validation": [row], "test": [row] * test_rows}, (), {"kept": 63}, tmp_path
    )
    plan, _ = plan_run(recipe, [prepared], Base(SMOL_CONFIG, licence, find("smollm2-135m"), "Q4_1"), MACHINE)
    return plan


def test_both_languages_say_the_same(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    english, chinese = plan_lines(plan, "en"), plan_lines(plan, "zh")
    assert len(english) == len(chinese) and english != chinese
    stated = plan_json(plan)
    assert stated["lines"] == {"en": english, "zh": chinese}
    assert json.loads(json.dumps(stated)) == stated
    pages = []
    for language in ("en", "zh"):
        set_language(language)  # type: ignore[arg-type]
        pages.append(as_markdown(plan))
    assert pages[0].startswith("# Plan\n") and pages[1].startswith("# 计划\n")
    for page in pages:
        assert "Q4\\_1" in page and "2212.09720" in page and page.count("\n---\n") == 1


def test_what_a_licence_says_is_no_markup(tmp_path: Path) -> None:
    page = as_markdown(planned(tmp_path, licence="<script>alert(1)</script> [x](http://x) `y`\n# z"))
    assert "<script" not in page and "[x](" not in page and "\n# z" not in page


def test_no_test_rows_are_refused(tmp_path: Path) -> None:
    plan = planned(tmp_path, test_rows=0)
    with pytest.raises(TunesmithError, match=r"plan\.blocked"):
        refuse_blocked(plan, tmp_path)
    refuse_blocked(planned(tmp_path), tmp_path)


def test_money_and_memory_are_events_too(tmp_path: Path) -> None:
    seen: list[Event] = []
    plan = planned(tmp_path)
    announce(plan, Events(listeners=(seen.append,)))
    (forecast,) = [event.values for event in seen if event.kind == "forecast"]
    assert forecast["money"] == round(plan.forecast.hours * 0.5, 4)
    assert forecast["memory_mb"] == round(plan.forecast.peak_bytes.value / 2**20)


def test_a_run_planned_without_a_forecast_trains_all_the_same(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "old", "0" * 64)
    stage = Recipe.model_validate(
        {"model": {"base": "b"}, "data": {"sources": [{"path": "a"}]}, "stages": [{"name": "s"}]}
    ).stages[0]
    seen: list[Event] = []
    emitter = Events(listeners=(seen.append,))
    after_probe(run.path, stage, ProbeResult(1e-3), emitter)
    after_fit(run.path, run.path / "metrics.jsonl", stage, Outcome(3, 1.0, None), emitter)
    assert [event.kind for event in seen] == ["probe"]


def test_a_record_that_cannot_be_written_is_an_alarm(work: lifecycle.Work, monkeypatch: pytest.MonkeyPatch) -> None:
    lifecycle.prepare_data(work)
    lifecycle.plan(work)
    blocked = work.path / "no folder"
    blocked.write_text("a file stands here", "utf-8")
    monkeypatch.setenv("TUNESMITH_HOME", str(blocked))
    seen: list[Event] = []
    emitter = Events(listeners=(seen.append,))
    after_fit(work.path, work.path / "metrics.jsonl", work.recipe.stages[0], Outcome(3, 1.0, None), emitter)
    assert [event.kind for event in seen] == ["forecast_error", "alarm"]


@pytest.mark.parametrize(("peak", "before", "told"), [(5, 4, 5), (5, 5, None), (4, 5, None)])
def test_a_peak_counts_where_it_was_made(peak: int, before: int, told: int | None) -> None:
    assert raised_to(peak, before) == told
