"""Distillation in a fit: what the teacher says is learned, whatever the layout, and exactly resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fits import local, make_job
from transformers import AutoModelForCausalLM

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.core.files import folder_hashes
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.recipe.load import parse_recipe
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import fit


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "base", spread=0.1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "teacher", spread=0.3, seed=9)


def distil(top_k: int | None = None, **settings: object) -> dict[str, object]:
    return {"objective": {"kind": "distill", "teacher": "teacher", "top_k": top_k, **settings}}


def divergence_of_row(
    base: Path, teacher: Path, row: tuple[int, ...], weights: tuple[float, ...]
) -> tuple[float, float]:
    """Sum over a row's trained tokens of KL at temperature 2, by transformers alone, and their number."""
    ids = torch.tensor([row])
    left, right = (AutoModelForCausalLM.from_pretrained(each, dtype=torch.float64) for each in (teacher, base))
    with torch.no_grad():
        p, q = (torch.log_softmax(model(ids).logits[0, :-1] / 2.0, -1) for model in (left, right))
    told = (p.exp() * (p - q)).sum(-1)
    kept = torch.tensor(weights[1:], dtype=torch.float64) != 0
    return float(told[kept].sum()), float(kept.sum())


def test_the_first_divergence_is_that_of_the_two_models(base: Path, teacher: Path, tmp_path: Path) -> None:
    job = make_job(
        base, tmp_path, local(), teacher=teacher, add_ons=distil(alpha=1.0), dtype=torch.float64,
        settings={"batch_size": 4},
    )  # fmt: skip
    window = job.source.window(0)
    sums, counts = zip(*(divergence_of_row(base, teacher, row.token_ids, row.weights) for row in window), strict=True)
    batches = job.passes.cut(0, window)
    told = sum(float(job.objective.loss(job.policy, batch)["divergence"].detach()) for batch in batches)
    assert told == pytest.approx(4.0 * sum(sums), rel=1e-6)
    assert sum(job.objective.count(batch)["divergence"] for batch in batches) == sum(counts)


@pytest.mark.parametrize("top_k", [None, 16])
def test_the_student_comes_nearer(base: Path, teacher: Path, tmp_path: Path, top_k: int | None) -> None:
    seen: list[Event] = []
    job = make_job(
        base, tmp_path, local(), teacher=teacher, add_ons=distil(top_k, alpha=0.9), adapt={"kind": "full"},
        settings={"learning_rate": 1e-2, "epochs": 8.0}, emitter=Events(None, (seen.append,)),
    )  # fmt: skip
    fit(job)
    steps = [event.values for event in seen if event.kind == "step"]
    told = [float(str(each["divergence"])) for each in steps]
    assert sum(told[-3:]) < 0.85 * sum(told[:3])
    for each in steps:
        assert each["loss"] == pytest.approx(float(str(each["cross_entropy"])) + float(str(each["divergence"])))
    assert not any(name.startswith("teacher") for name, _ in job.policy.named_parameters())


def test_a_cache_of_the_whole_vocabulary_is_the_teacher(base: Path, teacher: Path, tmp_path: Path) -> None:
    ends = []
    for name, top_k in (("memory", None), ("kept", 1_000_000)):
        settings = {"optimizer": "sgd", "epochs": 1.0}
        job = make_job(
            base, tmp_path / name, local(), teacher=teacher, add_ons=distil(top_k), settings=settings,
            dtype=torch.float64,
        )  # fmt: skip
        fit(job)
        ends.append({key: each.detach().clone() for key, each in job.optimizer.masters.items()})
    for key, each in ends[0].items():
        assert (each - ends[1][key]).norm() <= 1e-9 * each.norm().clamp_min(1e-12), key


@pytest.mark.parametrize("top_k", [None, 8])
def test_the_layout_of_a_step_does_not_change_it(base: Path, teacher: Path, tmp_path: Path, top_k: int | None) -> None:
    layouts = {
        "8": {"batch_size": 8},
        "2 x 4": {"batch_size": 4, "gradient_accumulation_steps": 2},
        "alone": {"batch_size": 8, "packing": False},
    }
    ends = []
    for name, layout in layouts.items():
        job = make_job(
            base, tmp_path / name, local(), teacher=teacher, add_ons=distil(top_k), rows=20, dtype=torch.float64,
            settings={"optimizer": "sgd", "epochs": 1.0, **layout},
        )  # fmt: skip
        fit(job)
        ends.append({key: each.detach().clone() for key, each in job.optimizer.masters.items()})
    for other in ends[1:]:
        for key, each in ends[0].items():
            assert (each - other[key]).norm() <= 1e-9 * each.norm().clamp_min(1e-12), key


@pytest.mark.parametrize("top_k", [None, 8])
def test_broken_off_and_gone_on(base: Path, teacher: Path, tmp_path: Path, top_k: int | None) -> None:
    ends = []
    for name, stops in (("whole", (None,)), ("broken", (2, 5, None))):
        for stop in stops:
            fit(make_job(base, tmp_path / name, local(), teacher=teacher, add_ons=distil(top_k)), until=stop)
        hashes = folder_hashes(checkpoint_paths(tmp_path / name)[-1])
        ends.append({file: digest for file, digest in hashes.items() if file != "state.json"})
    assert ends[0] == ends[1]


def test_the_teacher_is_asked_once(base: Path, teacher: Path, tmp_path: Path) -> None:
    asked: list[Event] = []
    emitter = Events(None, (lambda event: asked.append(event) if event.kind == "progress" else None,))
    for _ in range(2):
        make_job(base, tmp_path, local(), teacher=teacher, add_ons=distil(8), emitter=emitter)
    assert len(asked) == 24 + 6 + 10, "training, validation and old rows, each one time"
    with pytest.raises(TunesmithError, match="kept_differs"):
        make_job(base, tmp_path, local(), teacher=teacher, add_ons=distil(8, temperature=3.0))
    with pytest.raises(TunesmithError, match="kept_differs"):
        make_job(base, tmp_path, local(), teacher=base, add_ons=distil(8))


def test_a_teacher_that_reads_other_tokens_is_refused(base: Path, tmp_path: Path) -> None:
    other = tiny_chat_model(tmp_path / "other", vocabulary=300)
    with pytest.raises(TunesmithError, match="teacher_tokenizer"):
        make_job(base, tmp_path / "fit", local(), teacher=other, add_ons=distil())


RECIPE = "model: {base: m}\ndata: {sources: [{path: a.jsonl}]}\nstages: [{name: s}]\n"


@pytest.mark.parametrize(
    "settings",
    [
        "level: sequence, top_k: 8",
        "level: sequence, alpha: 0.9",
        "max_new_tokens: 9",
        "level: logits, hosted: {base_url: 'http://h/v1'}",
    ],
)
def test_a_setting_of_the_other_level_is_refused(settings: str) -> None:
    with pytest.raises(TunesmithError, match="bad_value"):
        parse_recipe(RECIPE, [f"stages.0.objective={{kind: distill, teacher: t, {settings}}}"])
