"""NaN and infinity: not applied, said, never the best, never saved as good; and the last good state is named."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from faults_tally import Tally
from faults_training import PLANTS, Watch, all_finite
from fits import local, make_job

from tunesmith.cli.failures import failure_of
from tunesmith.cli.manner import choose_manner
from tunesmith.cli.terminal import Terminal
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Events
from tunesmith.core.files import verify_folder
from tunesmith.messages import LANGUAGES, render
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.recipe.load import parse_recipe
from tunesmith.train.loop import BAD_STEPS_ALLOWED, fit

KINDS = [("lora", torch.float32), ("full", torch.bfloat16), ("lora", torch.bfloat16), ("full", torch.float32)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "base", spread=0.1)


@pytest.mark.case("C1")
@pytest.mark.parametrize("name", PLANTS)
def test_one_bad_step_changes_no_byte_and_is_said(base: Path, tmp_path: Path, tally: Tally, name: str) -> None:
    for kind, dtype in KINDS[: tally.amount(1, 4)]:
        for bad in tally.random.sample(range(1, 7), tally.amount(1, 3)):
            watch = Watch()
            job = make_job(
                base, tmp_path / f"{kind}-{dtype}-{bad}", local(), adapt={"kind": kind}, dtype=dtype, rows=12,
                settings={"gradient_accumulation_steps": 2, "batch_size": 2, "epochs": 2.0}, emitter=watch.emitter,
            )  # fmt: skip
            job = PLANTS[name](watch.watch(job), lambda watch=watch, bad=bad: watch.step == bad)
            result = fit(job)
            assert watch.of("step", "applied") == [step != bad for step in range(1, 7)]
            pairs = list(itertools.pairwise(watch.digests))
            assert [before == after for before, after in pairs] == [step == bad for step in range(1, 7)]
            assert watch.alarms("train.step_not_applied") == [bad]
            assert (result.progress.skipped_steps, result.progress.bad_steps) == (1, int(bad == 6))
            assert not math.isfinite(watch.of("step", "gradient_norm")[bad - 1])
            assert all_finite(job_folder := tmp_path / f"{kind}-{dtype}-{bad}" / "best"), job_folder
            tally.count("bad steps")


@pytest.mark.case("C1")
def test_steps_that_stay_bad_end_the_run_and_name_the_last_good_state(
    base: Path, tmp_path: Path, tally: Tally, capsys: pytest.CaptureFixture[str]
) -> None:
    choose_manner([])
    settings = {"save_steps": 1, "eval_steps": 100, "save_total_limit": 2, "epochs": 4.0}
    names = list(PLANTS)[: tally.amount(1, 5)]
    for name, (kind, dtype) in itertools.product(names, KINDS[: tally.amount(1, 4)]):
        folder = tmp_path / f"{name}-{kind}-{dtype}"
        metrics = tmp_path / f"{folder.name}.jsonl"
        written = Events(metrics, (Terminal(),))
        watch = Watch(lambda event, written=written: written.emit(event.kind, **event.values))
        job = make_job(base, folder, local(), settings=settings, adapt={"kind": kind}, dtype=dtype, rows=12,
                       emitter=watch.emitter)  # fmt: skip
        job = PLANTS[name](watch.watch(job), lambda watch=watch: watch.step >= 6)
        with pytest.raises(TunesmithError) as caught:
            fit(job)
        assert caught.value.code == "train.not_finite" and failure_of(caught.value).exit_code == 2
        assert watch.of("step", "applied") == [True] * 5 + [False] * BAD_STEPS_ALLOWED
        assert len(set(watch.digests[5:])) == 1, "the weights are those after step 5"
        # Step 5 may be what spoilt the weights; after step 4 they still gave a number.
        assert caught.value.facts["last_good"] == str(folder / "checkpoint-4")
        verify_folder(folder / "checkpoint-4")
        assert {path.name for path in folder.iterdir()} == {"checkpoint-4", "checkpoint-5"}
        assert all("checkpoint-4" in render(caught.value, language).next_step for language in LANGUAGES)
        lines = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
        shown = [line for line in lines if line["kind"] == "step" and not line["applied"]]
        assert len(shown) == BAD_STEPS_ALLOWED
        assert all("nan" in (figures := {line["loss"], line["gradient_norm"]}) or "inf" in figures for line in shown)
        out = " ".join(capsys.readouterr().out.split())  # lines are broken at the terminal's width
        assert out.count("The step was not applied") == BAD_STEPS_ALLOWED
        tally.count("runs ended by bad steps")


@pytest.mark.case("C1")
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_learning_rate_of_1e20(base: Path, tmp_path: Path, tally: Tally, optimizer: str) -> None:
    text = "model: {base: m}\ndata: {sources: [{path: a}]}\nstages: [{name: s, train: {learning_rate: 1e20}}]\n"
    with pytest.raises(TunesmithError) as refused:
        parse_recipe(text)
    assert refused.value.facts["key"] == "stages.0.train.learning_rate", "no recipe can ask for it"
    settings = {"save_steps": 1, "eval_steps": 2, "epochs": 8.0, "optimizer": optimizer, "max_grad_norm": 1e30}
    for kind, dtype in KINDS[: tally.amount(2, 4)]:
        folder = tmp_path / f"{kind}-{dtype}"
        watch = Watch()
        job = make_job(base, folder, local(), settings=settings, adapt={"kind": kind}, dtype=dtype, rows=12,
                       emitter=watch.emitter)  # fmt: skip
        with pytest.raises(TunesmithError) as caught:  # and past the recipe the loop stops it
            fit(replace(watch.watch(job), peak_learning_rate=1e20))
        assert caught.value.code == "train.not_finite" and failure_of(caught.value).exit_code == 2
        applied = watch.of("step", "applied")
        assert applied[-BAD_STEPS_ALLOWED:] == [False] * BAD_STEPS_ALLOWED
        pairs = itertools.pairwise(watch.digests)
        assert all(before == after for (before, after), done in zip(pairs, applied, strict=True) if not done)
        saved = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
        assert all(map(all_finite, saved)), "what is no number is never saved as if it were good"
        last_good = str(caught.value.facts["last_good"])
        assert Path(last_good) in saved or last_good.startswith("none was saved")
        tally.count("runs ended by bad steps")


VALUES = {"first": [None, 0.5, 0.4, 0.6, 0.5], "middle": [0.5, 0.4, None, 0.6, 0.5], "last": [0.5, 0.4, 0.6, 0.5, None]}
BEST = {"loss": {"first": 3, "middle": 2, "last": 2}, "rouge_l": {"first": 4, "middle": 4, "last": 3}}


@pytest.mark.case("C1")
@pytest.mark.parametrize("metric", BEST)
def test_a_metric_that_is_no_number_is_never_the_best(base: Path, tmp_path: Path, tally: Tally, metric: str) -> None:
    odd_ones = [math.nan, math.inf, -math.inf][: tally.amount(1, 3)]
    for (place, values), odd in itertools.product(VALUES.items(), odd_ones):
        folder, watch = tmp_path / f"{place}-{odd}", Watch()
        told = iter([odd if value is None else value for value in values])
        settings = {"eval_steps": 1, "max_steps": 5, "epochs": 9.0, "early_stopping": {"metric": metric}}
        job = make_job(base, folder, local(), settings=settings, rows=4, emitter=watch.emitter)
        result = fit(replace(job, validate=lambda told=told, metric=metric: {metric: next(told)}))
        expected = BEST[metric][place]
        assert result.stopper.best_step == expected and result.stopper.best_value == values[expected - 1]
        assert verify_folder(folder / "best")["step"] == expected
        bad_step = values.index(None) + 1
        assert watch.alarms("train.validation_not_finite") == [bad_step]
        assert watch.of("validation", "best")[bad_step - 1] is False
        tally.count("metrics that are no number")


@pytest.mark.case("C1")
def test_a_training_without_any_good_validation_did_not_succeed(base: Path, tmp_path: Path, tally: Tally) -> None:
    for odd in (math.nan, math.inf, -math.inf)[: tally.amount(1, 3)]:
        folder = tmp_path / str(odd)

        def job(folder: Path = folder, odd: float = odd):
            made = make_job(base, folder, local(), settings={"max_steps": 2}, rows=8)
            return replace(made, validate=lambda: {"loss": odd})

        for _ in range(2):  # and asking again does not make it a success
            with pytest.raises(TunesmithError) as caught:
                fit(job())
            assert caught.value.code == "train.no_good_validation" and failure_of(caught.value).exit_code == 2
        assert not (folder / "best").exists()
        tally.count("metrics that are no number")


@pytest.mark.case("C1")
def test_the_program_ends_with_an_error_and_says_why(base: Path, tmp_path: Path, tally: Tally) -> None:
    """The whole program on a base of which one weight is no number: nothing of it is ever trained, saved or shipped."""
    for spoilt in _spoilt_bases(base, tmp_path, tally.amount(1, 3)):
        code, out, err = _program(spoilt, tmp_path / spoilt.name / "project")
        assert code == 2, (code, out, err)
        assert "Traceback" not in out + err
        tally.count("runs of the program on broken weights")


def _spoilt_bases(base: Path, folder: Path, count: int) -> Iterator[Path]:
    from safetensors.torch import load_file, save_file

    places = {"model.layers.0.mlp.up_proj.weight": math.nan, "model.norm.weight": math.inf,
              "model.embed_tokens.weight": math.nan}  # fmt: skip
    for place, value in list(places.items())[:count]:
        spoilt = folder / place.replace(".", "-")
        spoilt.mkdir()
        for path in base.iterdir():
            if path.name not in ("manifest.json", "model.safetensors"):
                (spoilt / path.name).write_bytes(path.read_bytes())
        tensors = load_file(base / "model.safetensors")
        tensors[place].view(-1)[0] = value
        save_file(tensors, spoilt / "model.safetensors", metadata={"format": "pt"})
        yield spoilt


def _program(base: Path, folder: Path) -> tuple[int, str, str]:
    from tiny_project import write_tiny_recipe
    from typer.testing import CliRunner

    from tunesmith.cli.main import app

    recipe = write_tiny_recipe(folder, base)
    result = CliRunner().invoke(app, ["train", str(recipe), "--runs", str(folder / "runs")])
    return result.exit_code, result.stdout, result.stderr
