"""Penalties against autograd and closed forms: values, gradients, anchors, and once a step whatever its layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fits import local, make_job
from torch import Tensor, nn

from tunesmith.compat.check import check
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.core.files import folder_hashes
from tunesmith.models.low_rank import LowRank
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.objectives import penalties as penalties_room
from tunesmith.objectives.penalties import Penalties, penalties_of
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.specs.penalties import PenaltiesSpec
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import fit

OLD = [{"path": "old.jsonl"}]


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(penalties_room, "_IN_CACHE", 12)


PAIR = LowRank("layer", "layer.a", "layer.b", 0.5)
EWC: dict[str, object] = {"ewc": {"weight": 3.0, "sources": OLD, "rows": 4}}
ALL: dict[str, object] = {**EWC, "l2_sp": 0.2, "l2": 0.1, "l1": 0.01}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "base", spread=0.1)


def parameters(high: float) -> dict[str, nn.Parameter]:
    draw = torch.Generator().manual_seed(1)
    shapes = {"layer.a": (2, 5), "layer.b": (7, 2), "norm": (4,)}
    made = {name: torch.randn(shape, generator=draw, dtype=torch.float64) for name, shape in shapes.items()}
    made["layer.b"] *= high
    return {name: nn.Parameter(value) for name, value in made.items()}


def shifted(masters: dict[str, nn.Parameter]) -> None:
    draw = torch.Generator().manual_seed(2)
    for each in masters.values():
        each.data += torch.randn(each.shape, generator=draw, dtype=torch.float64)
        each.grad = torch.zeros_like(each)


Formula = Callable[[dict[str, nn.Parameter], dict[str, Tensor], dict[str, Tensor]], Tensor]


def _away(now: dict[str, nn.Parameter], start: dict[str, Tensor]) -> Tensor:
    return 0.5 * (now["layer.b"] @ now["layer.a"] - start["layer.b"] @ start["layer.a"])


FORMULAS: dict[str, tuple[dict[str, object], Formula]] = {
    "ewc": (
        {"ewc": {"weight": 3.0, "sources": OLD}},
        lambda now, start, fisher: (
            1.5 * (fisher["layer"] * _away(now, start) ** 2).sum()
            + 1.5 * (fisher["norm"] * (now["norm"] - start["norm"]) ** 2).sum()
        ),
    ),
    "l2_sp": (
        {"l2_sp": 0.2},
        lambda now, start, fisher: 0.1 * ((_away(now, start) ** 2).sum() + ((now["norm"] - start["norm"]) ** 2).sum()),
    ),
    "l2": ({"l2": 0.4}, lambda now, start, fisher: 0.2 * sum((each**2).sum() for each in now.values())),
    "l1": ({"l1": 0.4}, lambda now, start, fisher: 0.4 * sum(each.abs().sum() for each in now.values())),
}


@pytest.mark.parametrize("high", [0.0, 1.0], ids=["starts at zero", "starts in the base"])
@pytest.mark.parametrize("name", FORMULAS)
def test_value_and_gradient_are_those_of_the_formula(name: str, high: float) -> None:
    spec, formula = FORMULAS[name]
    masters = parameters(high)
    start = {key: each.detach().clone() for key, each in masters.items()}
    fisher = {"layer": torch.rand(7, 5, dtype=torch.float64), "norm": torch.rand(4, dtype=torch.float64)}
    penalties = penalties_of(PenaltiesSpec.model_validate(spec), masters, [PAIR], fisher)
    shifted(masters)
    told = penalties.add()
    value = formula(masters, start, fisher)
    wanted = torch.autograd.grad(value, list(masters.values()), allow_unused=True)
    assert told == {name: pytest.approx(float(value.detach()), rel=1e-12)}
    for (key, each), gradient in zip(masters.items(), wanted, strict=True):
        expected = torch.zeros_like(each) if gradient is None else gradient
        torch.testing.assert_close(each.grad, expected, rtol=1e-12, atol=1e-12, msg=key)


@pytest.mark.parametrize("high", [0.0, 1.0], ids=["starts at zero", "starts in the base"])
def test_at_the_anchor_there_is_nothing_to_the_bit(high: float) -> None:
    masters = parameters(high)
    fisher = {"layer": torch.rand(7, 5, dtype=torch.float64), "norm": torch.rand(4, dtype=torch.float64)}
    spec = PenaltiesSpec.model_validate({**EWC, "l2_sp": 1.0})
    penalties = penalties_of(spec, masters, [PAIR], fisher)
    for each in masters.values():
        each.grad = torch.zeros_like(each)
    assert penalties.add() == {"ewc": 0.0, "l2_sp": 0.0}
    assert all(each.grad is not None and not each.grad.any() for each in masters.values())


def test_what_stands_still_gets_no_gradient() -> None:
    masters = parameters(0.0)
    penalties = penalties_of(PenaltiesSpec.model_validate({"l2": 1.0}), masters, [PAIR], {})
    masters["norm"].grad = torch.zeros(4, dtype=torch.float64)
    penalties.add()
    assert masters["layer.a"].grad is None and masters["norm"].grad.any()


def test_no_penalty_is_nothing() -> None:
    assert Penalties({}).add() == {}


# --------------------------------------------------------------------------------------------------- in a fit


def masters_of(base: Path, folder: Path, settings: dict[str, object], **more: object) -> dict[str, Tensor]:
    steps = {"optimizer": "sgd", "epochs": 1.0, **settings}
    job = make_job(base, folder, local(), settings=steps, dtype=torch.float64, rows=20, **more)  # type: ignore[arg-type]
    fit(job)
    return {name: each.detach().clone() for name, each in job.optimizer.masters.items()}


def test_a_penalty_counts_once_a_step_whatever_its_layout(base: Path, tmp_path: Path) -> None:
    add_ons = {"penalties": ALL}
    whole = masters_of(base, tmp_path / "whole", {"batch_size": 8}, add_ons=add_ons)
    layouts = {
        "2 x 4": {"batch_size": 4, "gradient_accumulation_steps": 2},
        "alone": {"batch_size": 8, "packing": False},
    }
    for name, layout in layouts.items():
        other = masters_of(base, tmp_path / name, layout, add_ons=add_ons)
        for key, each in whole.items():
            assert (each - other[key]).norm() <= 1e-9 * each.norm().clamp_min(1e-12), f"{name} {key}"


def test_penalties_are_told_as_terms_of_their_own_and_hold_what_they_should(base: Path, tmp_path: Path) -> None:
    ends: dict[str, float] = {}
    for name, add_ons in {"free": {}, "held": {"penalties": {"l2_sp": 100.0}}}.items():
        seen: list[Event] = []
        job = make_job(base, tmp_path / name, local(), add_ons=add_ons, emitter=Events(None, (seen.append,)))
        start = {key: each.detach().clone() for key, each in job.optimizer.masters.items()}
        fit(job)
        steps = [event.values for event in seen if event.kind == "step"]
        assert all(("l2_sp" in each) is (name == "held") for each in steps)
        highs = [key for key in start if ".lora_B." in key]
        ends[name] = sum(float(job.optimizer.masters[key].detach().norm()) for key in highs)
    assert ends["held"] < 0.5 * ends["free"]


KINDS: dict[str, dict[str, object]] = {
    "lora": {"kind": "lora", "rank": 4},
    "pissa": {"kind": "lora", "rank": 4, "init_lora_weights": "pissa"},
    "full": {"kind": "full"},
    "norms": {"kind": "subset", "parts": ["norm"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_broken_off_and_gone_on(base: Path, tmp_path: Path, kind: str) -> None:
    ends = []
    for name, stops in (("whole", (None,)), ("broken", (2, 5, None))):
        for stop in stops:
            job = make_job(
                base, tmp_path / name, local(), adapt=KINDS[kind], add_ons={"penalties": ALL},
                settings={"learning_rate": 1e-3},
            )  # fmt: skip
            fit(job, until=stop)
        hashes = folder_hashes(checkpoint_paths(tmp_path / name)[-1])
        ends.append({file: digest for file, digest in hashes.items() if file != "state.json"})  # it holds seconds
        ends[-1] |= folder_hashes(tmp_path / name / "fisher")
    assert ends[0] == ends[1]


def test_what_an_old_task_needs_is_measured_once_and_not_taken_on_trust(base: Path, tmp_path: Path) -> None:
    add_ons = {"penalties": EWC}
    make_job(base, tmp_path, local(), add_ons=add_ons)
    before = (tmp_path / "fisher" / "tensors.safetensors").stat()
    make_job(base, tmp_path, local(), add_ons=add_ons)
    after = (tmp_path / "fisher" / "tensors.safetensors").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    observed = {"ewc": {"weight": 3.0, "sources": OLD, "rows": 4, "labels": "observed"}}
    with pytest.raises(TunesmithError, match=r"train\.kept_differs"):
        make_job(base, tmp_path, local(), add_ons={"penalties": observed})
    file = tmp_path / "fisher" / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(TunesmithError, match="hash_differs"):
        make_job(base, tmp_path, local(), add_ons=add_ons)


def test_a_checkpoint_with_another_measurement_is_refused(base: Path, tmp_path: Path) -> None:
    fit(make_job(base, tmp_path / "one", local(), add_ons={"penalties": EWC}), until=2)
    job = make_job(base, tmp_path / "one", local())
    with pytest.raises(TunesmithError, match=r"penalties\.ewc"):
        fit(job)


RECIPE = "model: {base: m}\ndata: {sources: [{path: a.jsonl}]}\nstages: [{name: s}]\n"


@pytest.mark.parametrize("penalty", ["ewc: {weight: 1, sources: [{path: o.jsonl}]}", "l2_sp: 0.1"])
def test_a_length_of_its_own_is_no_sum_of_weights(penalty: str) -> None:
    recipe = parse_recipe(RECIPE, ["stages.0.adapt={kind: lora, use_dora: true}", f"stages.0.penalties={{{penalty}}}"])
    with pytest.raises(TunesmithError, match="penalty_adaptation"):
        check(recipe)
    check(parse_recipe(RECIPE, [f"stages.0.penalties={{{penalty}}}"]))


def test_a_table_of_no_penalty_is_refused() -> None:
    with pytest.raises(TunesmithError, match="bad_value"):
        parse_recipe(RECIPE, ["stages.0.penalties={}"])
