"""Two domains in one fit: what each row gives, the same step whatever its layout, and bytes after a resume."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from class_fits import make_class_job
from fits import local
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tunesmith.compat.check import check
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.core.files import folder_hashes
from tunesmith.core.seed import derive_seed
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder
from tunesmith.objectives.alignment import gaussian_divergence, mean_discrepancy
from tunesmith.objectives.domains import reversal_factor
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.specs.objectives import MmdSpec, ReversalSpec
from tunesmith.runtime.base import Runtime, seed_draws, seed_pass
from tunesmith.train import look_ahead, loop
from tunesmith.train.checkpoint import checkpoint_facts, checkpoint_paths
from tunesmith.train.loop import Job, fit
from tunesmith.train.probe import step_cost

TARGETS = {"target_sources": [{"path": "other.jsonl"}]}
REVERSAL = {"reversal": {"hidden_size": 16, "learning_rate": 0.1}}
ALL = {**REVERSAL, "kl": 0.3, "mmd": {"weight": 2.0}}
AIMS = {"reversal": REVERSAL, "kl": {"kl": 0.3}, "mmd": {"mmd": {"weight": 2.0}}, "all": ALL}
PLAIN = {"optimizer": "sgd", "epochs": 1.0}


def objective(**settings: object) -> dict[str, object]:
    return {"kind": "adversarial", **TARGETS, **settings}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bodies")
    return {
        "encoder": tiny_encoder(folder / "encoder", spread=0.1),
        "decoder": tiny_chat_model(folder / "decoder", spread=0.1),
    }


def stopping(aim: dict[str, object]) -> dict[str, object]:
    """Where the aim has a distance of the domains, that decides which state is kept."""
    return {"early_stopping": {"metric": "adapted_loss"}} if {"kl", "mmd"} & set(aim) else {}


def make(
    base: Path, folder: Path, aim: dict[str, object], layout: dict[str, object] | None = None, kind: str = "text_class"
) -> Job:
    return make_class_job(
        base, folder, local(), kind, objective=objective(**aim), dtype=torch.float64, rows=21,
        settings={**PLAIN, **stopping(aim), "batch_size": 8, **(layout or {})},
    )  # fmt: skip


def begun(job: Job, step: int = 3) -> dict[str, Tensor]:
    """The terms of one step that is run in one pass."""
    window = job.source.window(step)
    (batch,) = job.passes.cut(step, window)
    job.look_ahead.begin(step)
    return job.objective.loss(job.policy, batch)


# ------------------------------------------------------------------------------------------ what rows give


def test_target_rows_give_the_domain_terms_alone(bases: dict[str, Path], tmp_path: Path) -> None:
    job = make(bases["encoder"], tmp_path, ALL)
    window = job.source.window(3)
    is_target = torch.tensor([row.row >= 500 for row in window])
    assert int(is_target.sum()) == 4
    (batch,) = job.passes.cut(3, window)
    assert job.objective.count(batch) == {
        "task": 4.0, **dict.fromkeys(("domain", "domain_accuracy", "lambda", "kl", "mmd"), 8.0),
    }  # fmt: skip
    found = begun(job)
    with torch.no_grad():
        features, losses = job.policy.hidden(batch), job.policy(batch)
        scores = job.policy.own(features)
    progress = reversal_factor(ReversalSpec(), 3 / job.total_steps)
    wanted = {
        "task": losses[~is_target].sum(),
        "domain": binary_cross_entropy_with_logits(scores, is_target.double(), reduction="sum"),
        "domain_accuracy": ((scores > 0) == is_target).sum().double(),
        "lambda": torch.tensor(8 * progress),
        "kl": 8 * 0.3 * gaussian_divergence(features[~is_target], features[is_target]),
        "mmd": 8 * 2.0 * mean_discrepancy(features[~is_target], features[is_target], MmdSpec()),
    }
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert float(found[name].detach()) == pytest.approx(float(value)), name


@pytest.mark.parametrize("body", ["encoder", "decoder"])
def test_a_row_of_words_is_one_item_of_the_domain_terms(bases: dict[str, Path], body: str, tmp_path: Path) -> None:
    """Its feature is the mean over its words; the task's loss is that of the source's words one by one."""
    job = make(bases[body], tmp_path, ALL, kind="token_class")
    window = job.source.window(3)
    words = {row.row: int(sum(row.weights)) for row in window}
    assert len(set(words.values())) > 2, "rows of several lengths"
    (batch,) = job.passes.cut(3, window)
    source = [count for row, count in words.items() if row < 500]
    assert len(source) == 4
    assert job.objective.count(batch) == {
        "task": float(sum(source)), **dict.fromkeys(("domain", "domain_accuracy", "lambda", "kl", "mmd"), 8.0),
    }  # fmt: skip
    found = begun(job)
    with torch.no_grad():
        hidden, losses = job.policy.hidden(batch), job.policy(batch)
        row_of_place = [int(batch.row[each]) for each in batch.document_of_kept()]
        rows = list(dict.fromkeys(row_of_place))
        places = {row: [place for place, each in enumerate(row_of_place) if each == row] for row in rows}
        assert {row: len(each) for row, each in places.items()} == words
        features = torch.stack([hidden[places[row]].sum(0) / len(places[row]) for row in rows])
        is_target = torch.tensor([row >= 500 for row in rows])
        scores = job.policy.own(features)
    wanted = {
        "task": sum(losses[places[row]].sum() for row in rows if row < 500),
        "domain": binary_cross_entropy_with_logits(scores, is_target.double(), reduction="sum"),
        "domain_accuracy": ((scores > 0) == is_target).sum().double(),
        "lambda": torch.tensor(8 * reversal_factor(ReversalSpec(), 3 / job.total_steps)),
        "kl": 8 * 0.3 * gaussian_divergence(features[~is_target], features[is_target]),
        "mmd": 8 * 2.0 * mean_discrepancy(features[~is_target], features[is_target], MmdSpec()),
    }
    for name, value in wanted.items():
        assert float(found[name].detach()) == pytest.approx(float(value)), name


@pytest.mark.parametrize("kind", ["text_class", "token_class"])
def test_the_classes_that_stand_in_target_rows_mean_nothing(bases: dict[str, Path], kind: str, tmp_path: Path) -> None:
    job = make(bases["encoder"], tmp_path, REVERSAL, kind=kind)
    job.objective.begin(0.5)  # type: ignore[attr-defined]
    (batch,) = job.passes.cut(0, job.source.window(0))
    plain = job.objective.loss(job.policy, batch)["task"]
    batch.target[batch.row[batch.document_of_kept()] >= 500] = 1
    assert torch.equal(job.objective.loss(job.policy, batch)["task"], plain)


def test_below_the_classifier_its_gradient_is_reversed(bases: dict[str, Path], tmp_path: Path) -> None:
    """At the features, by -lambda times the plain one; in the classifier, the plain one."""
    job = make(bases["encoder"], tmp_path, REVERSAL)
    step = 3
    begun(job, step)["domain"].backward()
    found = {name: each.grad.clone() for name, each in job.policy.named_parameters() if each.grad is not None}
    job.optimizer.drop()
    (batch,) = job.passes.cut(step, window := job.source.window(step))
    is_target = torch.tensor([row.row >= 500 for row in window]).double()
    scores = job.policy.own(job.policy.hidden(batch))
    binary_cross_entropy_with_logits(scores, is_target, reduction="sum").backward()
    factor = reversal_factor(ReversalSpec(), step / job.total_steps)
    seen = set()
    for name, each in job.policy.named_parameters():
        if each.grad is not None and bool(each.grad.any()):
            sign = 1.0 if name.startswith("own.") else -factor
            torch.testing.assert_close(found[name], sign * each.grad, rtol=1e-9, atol=1e-12)
            seen.add(name.startswith("own."))
    assert seen == {True, False} and factor > 0


@pytest.mark.parametrize("body", ["encoder", "decoder"])
def test_steps_tell_lambda_and_accuracy_beside_the_loss(bases: dict[str, Path], body: str, tmp_path: Path) -> None:
    seen: list[Event] = []
    job = make_class_job(
        bases[body], tmp_path, local(), "several", objective=objective(**ALL),
        settings={"epochs": 2.0, "batch_size": 8}, emitter=Events(None, (seen.append,)),
    )  # fmt: skip
    fit(job)
    steps = [event.values for event in seen if event.kind == "step"]
    terms = ("task", "domain", "kl", "mmd")
    for place, values in enumerate(steps):
        told = {name: float(str(values[name])) for name in ("loss", *terms, "lambda", "domain_accuracy")}
        assert told["loss"] == pytest.approx(sum(told[name] for name in terms))
        assert told["lambda"] == pytest.approx(reversal_factor(ReversalSpec(), place / len(steps)), rel=1e-6)
        assert 0 <= told["domain_accuracy"] <= 1
    validations = [event.values for event in seen if event.kind == "validation"]
    assert validations and all(set(each) == {"step", "best", "loss"} for each in validations)


# ------------------------------------------------------------------------------------------ the same step


LAYOUTS = {
    "8": {"batch_size": 8},
    "2 x 4": {"batch_size": 4, "gradient_accumulation_steps": 2},
    "8 x 1": {"batch_size": 1, "gradient_accumulation_steps": 8},
    "auto": {"batch_size": "auto"},
}


@pytest.mark.parametrize(("aim", "kind"), [*((aim, "text_class") for aim in AIMS), ("all", "token_class")])
def test_the_layout_of_a_step_does_not_change_it(bases: dict[str, Path], aim: str, kind: str, tmp_path: Path) -> None:
    ends = []
    for name, layout in LAYOUTS.items():
        job = make(bases["encoder"], tmp_path / name, AIMS[aim], layout, kind)
        fit(job)
        ends.append({key: each.detach().clone() for key, each in job.optimizer.masters.items()})
    for other in ends[1:]:
        near(other, ends[0])


def near(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, each in wanted.items():
        assert (each - found[name]).norm() <= 1e-9 * each.norm().clamp_min(1e-12), name


RANK_PROGRAM = """
import sys, torch
from pathlib import Path
from class_fits import make_class_job
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.distributed import DistributedRuntime
from tunesmith.train.loop import fit
runtime = DistributedRuntime(RuntimeSpec(kind="distributed", device="cpu", threads=1))
counts = [runtime.gather(torch.full((rows, 2), float(runtime.rank))) for rows in (runtime.rank, 3 - runtime.rank)]
assert [each[:, 0].tolist() for each in counts] == [[1.0], [0.0] * 3 + [1.0] * 2], counts
for name, objective in AIMS.items():
    kind = "token_class" if name == "words" else "text_class"
    stopping = {"early_stopping": {"metric": "adapted_loss"}} if {"kl", "mmd"} & set(objective) else {}
    job = make_class_job(Path(sys.argv[1]), Path(sys.argv[2]) / name, runtime, kind, objective=objective,
                         dtype=torch.float64, rows=21, settings={**PLAIN, **stopping, "batch_size": 4})
    fit(job)
runtime.close()
"""


def start_ranks(program: str, *arguments: Path) -> list[subprocess.Popen[bytes]]:
    """Two processes of one job."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    helpers = str(Path(__file__).parents[1] / "helpers")
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    environment["PYTHONPATH"] = os.pathsep.join([helpers, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in range(2)]


def test_two_gloo_processes_equal_one(bases: dict[str, Path], tmp_path: Path) -> None:
    aims = {**AIMS, "words": ALL}
    program = RANK_PROGRAM.replace("AIMS", repr({name: objective(**each) for name, each in aims.items()}))
    ranks = start_ranks(program.replace("PLAIN", repr(PLAIN)), bases["encoder"], tmp_path / "pair")
    for name, aim in aims.items():
        kind = "token_class" if name == "words" else "text_class"
        fit(make(bases["encoder"], tmp_path / "alone" / name, aim, kind=kind))
    assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]
    for name in aims:
        ends = [checkpoint_paths(tmp_path / each / name)[-1] for each in ("pair", "alone")]
        found, wanted = (load_file(each / "masters.safetensors") for each in ends)
        near(found, wanted)
        told, expected = (checkpoint_facts(each)["stopper"] for each in ends)
        assert isinstance(told, dict) and isinstance(expected, dict)
        assert told["best_value"] == pytest.approx(expected["best_value"], rel=1e-9), (
            "the distance is of both ranks' rows"
        )


# ------------------------------------------------------------------------------------------ dropout


def test_with_dropout_parts_of_a_step_have_the_gradient_of_the_features_they_have(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    """Rows of the target stand in the step twice, each time with other features."""
    job = make_class_job(
        bases["encoder"], tmp_path, local(), "text_class", dtype=torch.float64, dropout=0.3,
        adapt={"kind": "lora", "rank": 4, "lora_dropout": 0.3}, objective=objective(**ALL, target_share=0.8),
        settings={**PLAIN, "batch_size": 4, "gradient_accumulation_steps": 4},
    )  # fmt: skip
    window = job.source.window(0)
    targets = [row.row for row in window if row.row >= 500]
    assert len(targets) == 13 > len(set(targets))
    batches, moving = job.passes.cut(0, window), list(job.optimizer.masters)
    parameters = dict(job.policy.named_parameters())
    places = [parameters[name] for name in moving]
    features, numbers = [], []
    for place, batch in enumerate(batches):
        seed_pass(job.runtime, job.spec.seed, 0, place)
        features.append(job.policy.hidden(batch))
        numbers += batch.row[batch.document_of_kept()].tolist()
    of_target, together = torch.tensor([row >= 500 for row in numbers]), torch.cat(features)
    twice = next(row for row in targets if targets.count(row) == 2)
    assert not torch.equal(*(together[place] for place, row in enumerate(numbers) if row == twice))
    own, other = together[~of_target], together[of_target]
    value = 0.3 * gaussian_divergence(own, other) + 2.0 * mean_discrepancy(own, other, MmdSpec())
    wanted = torch.autograd.grad(value, places, allow_unused=True)

    job.look_ahead.begin(0)
    job.look_ahead.look(batches)
    job.look_ahead.tell()
    found = torch.zeros((), dtype=torch.float64)
    for place, batch in enumerate(batches):
        seed_pass(job.runtime, job.spec.seed, 0, place)
        terms = job.objective.loss(job.policy, batch)
        found = found + (terms["kl"] + terms["mmd"]) / len(window)
    assert float(found.detach()) == pytest.approx(float(value.detach()))
    gradients = torch.autograd.grad(found, places, allow_unused=True)
    assert any(each is not None and bool(each.any()) for each in wanted)
    for name, each, expected in zip(moving, gradients, wanted, strict=True):
        if expected is not None and each is not None:
            torch.testing.assert_close(each, expected, rtol=1e-9, atol=1e-12, msg=name)
        assert (each is None or not each.any()) == (expected is None or not expected.any()), name


DROPPED_PROGRAM = """
import sys, torch
from pathlib import Path
from class_fits import make_class_job
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.distributed import DistributedRuntime
from tunesmith.train.loop import fit
runtime = DistributedRuntime(RuntimeSpec(kind="distributed", device="cpu", threads=1))
fit(make_class_job(Path(sys.argv[1]), Path(sys.argv[2]), runtime, "text_class", dtype=torch.float64, **ARGUMENTS))
runtime.close()
"""


def test_with_dropout_two_processes_are_one_that_drops_what_they_drop(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, object] = {
        "rows": 21, "dropout": 0.2, "adapt": {"kind": "lora", "rank": 4, "lora_dropout": 0.2},
        "objective": objective(**ALL), "settings": {**PLAIN, "batch_size": 4},
    }  # fmt: skip
    ranks = start_ranks(DROPPED_PROGRAM.replace("ARGUMENTS", repr(arguments)), bases["encoder"], tmp_path / "pair")

    def as_that_rank(runtime: Runtime, seed: int, step: int, place: int) -> None:
        seed_draws(runtime.device, derive_seed(seed, "dropout", step, 0, place))

    for module in (loop, look_ahead):
        monkeypatch.setattr(module, "seed_pass", as_that_rank)
    arguments["settings"] = {**PLAIN, "batch_size": 4, "gradient_accumulation_steps": 2}
    fit(make_class_job(bases["encoder"], tmp_path / "alone", local(), "text_class", dtype=torch.float64, **arguments))  # type: ignore[arg-type]
    assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]
    found, wanted = (
        load_file(checkpoint_paths(tmp_path / each)[-1] / "masters.safetensors") for each in ("pair", "alone")
    )
    near(found, wanted)


# ------------------------------------------------------------------------------------------ what is kept


@pytest.mark.parametrize(("body", "adapt"), [("encoder", {"kind": "full"}), ("decoder", {})])
def test_broken_off_and_gone_on(bases: dict[str, Path], body: str, adapt: dict[str, object], tmp_path: Path) -> None:
    settings = {"batch_size": 4, "gradient_accumulation_steps": 2}
    ends = []
    for name, stops in (("whole", (None,)), ("broken", (2, 5, None))):
        for stop in stops:
            job = make_class_job(
                bases[body], tmp_path / name, local(), "text_class", objective=objective(**ALL), adapt=adapt or None,
                settings=settings,
            )  # fmt: skip
            fit(job, until=stop)
        hashes = folder_hashes(checkpoint_paths(tmp_path / name)[-1])
        ends.append({file: digest for file, digest in hashes.items() if file != "state.json"})
    assert ends[0] == ends[1]


@pytest.mark.parametrize("adapt", [{"kind": "full"}, {"kind": "subset", "first_layer": -1}, {"kind": "lora"}])
def test_the_classifier_is_in_the_checkpoint_and_not_in_the_change(
    bases: dict[str, Path], adapt: dict[str, object], tmp_path: Path
) -> None:
    job = make_class_job(
        bases["encoder"], tmp_path, local(), "text_class", objective=objective(**ALL), adapt=adapt,
        settings={"epochs": 1.0, "batch_size": 8},
    )  # fmt: skip
    before = {name: each.detach().clone() for name, each in job.policy.own.named_parameters()}
    fit(job)
    own = {f"own.{name}" for name in ("hidden.weight", "hidden.bias", "output.weight", "output.bias")}
    assert {name for name in job.optimizer.masters if name.startswith("own.")} == own
    assert all(not torch.equal(before[name], each) for name, each in job.policy.own.named_parameters())
    for folder in (checkpoint_paths(tmp_path)[-1], tmp_path / "best"):
        kept = load_file(folder / "masters.safetensors") if (folder / "masters.safetensors").exists() else {}
        assert own <= kept.keys() or folder.name == "best"
        (change,) = (each for each in folder.glob("*model.safetensors"))
        assert not any("own." in name or "hidden." in name for name in load_file(change))
        assert len(load_file(change)) == len(job.optimizer.masters) - len(own)


def test_penalties_and_step_sizes_of_the_stage_are_not_the_classifiers(bases: dict[str, Path], tmp_path: Path) -> None:
    job = make_class_job(
        bases["encoder"], tmp_path, local(), "text_class", objective=objective(**REVERSAL),
        penalties={"l2": 0.5, "l2_sp": 0.1}, settings={"learning_rate": 1e-2, "batch_size": 8}, dtype=torch.float64,
    )  # fmt: skip
    begun(job)["domain"].backward()
    own = {name: each for name, each in job.policy.named_parameters() if name.startswith("own.")}
    before = {name: each.grad.clone() for name, each in own.items() if each.grad is not None}
    assert before.keys() == own.keys()
    others = [each for name, each in job.optimizer.masters.items() if name not in own]
    wanted = 0.25 * sum(float(each.detach().square().sum()) for each in others)
    assert job.penalties.add() == {"l2": pytest.approx(wanted), "l2_sp": 0.0}
    assert all(torch.equal(each.grad, before[name]) for name, each in own.items() if each.grad is not None)
    groups = job.optimizer._optimizer.param_groups
    assert sorted({round(group["factor"], 9) for group in groups}) == [1.0, 10.0]


def test_a_probe_runs_steps_as_they_will_be_and_moves_nothing(bases: dict[str, Path], tmp_path: Path) -> None:
    job = make(bases["encoder"], tmp_path, ALL, LAYOUTS["2 x 4"])
    before = {name: each.detach().clone() for name, each in job.policy.named_parameters()}
    assert step_cost(job).seconds_per_token > 0
    assert all(torch.equal(before[name], each) for name, each in job.policy.named_parameters())


# ------------------------------------------------------------------------------------------ refusals


RECIPE = json.dumps(
    {
        "model": {"base": "m"},
        "data": {"task": "text_class", "sources": [{"path": "a.jsonl"}]},
        "stages": [{"name": "s", "objective": objective(**ALL)}],
    }
)
REFUSED = {
    "compat.rows": ["data.task=chat"],
    "compat.adversarial_replay": ["stages.0.replay={sources: [{path: o.jsonl}]}"],
    "recipe.bad_value": ["stages.0.objective={kind: adversarial, target_sources: [{path: o.jsonl}]}"],
    "recipe.missing_key": ["stages.0.objective={kind: adversarial, reversal: {}}"],
}


@pytest.mark.parametrize("code", REFUSED)
def test_what_cannot_be_is_refused(code: str) -> None:
    with pytest.raises(TunesmithError) as error:
        check(parse_recipe(RECIPE, REFUSED[code]))
    assert error.value.code == code
    check(parse_recipe(RECIPE, []))
    check(parse_recipe(RECIPE, ["model.dropout=own", "stages.0.adapt={kind: lora, lora_dropout: 0.1}"]))


@pytest.mark.parametrize(("aim", "rows"), [(REVERSAL, 1), ({"kl": 1.0}, 3), ({"mmd": {}}, 2)])
def test_a_step_needs_rows_of_both_domains(
    bases: dict[str, Path], aim: dict[str, object], rows: int, tmp_path: Path
) -> None:
    with pytest.raises(TunesmithError, match="domains_no_room"):
        make(bases["encoder"], tmp_path, aim, {"batch_size": rows})
