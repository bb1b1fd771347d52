"""Groups: each parameter gets its own step size and decay, and begins to move in its turn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fits import local, make_job

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.core.files import folder_hashes
from tunesmith.messages import say
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import Job, fit

FULL = {"kind": "full"}
EVERY_THIRD = {"unfreeze": {"blocks": 1, "every_steps": 3}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("base") / "tiny", spread=0.1, layers=3)


def moved_by_one_step(job: Job) -> dict[str, float]:
    """The longest way of any number: with Adam that is the step size in the first step."""
    before = {name: each.detach().clone() for name, each in job.policy.named_parameters()}
    fit(job, until=1)
    return {name: float((each.detach() - before[name]).abs().max()) for name, each in job.policy.named_parameters()}


SETTINGS = {"learning_rate": 1e-3, "weight_decay": 0.0, "warmup_ratio": 0.0, "lr_scheduler_type": "constant"}


def test_step_sizes_fall_from_block_to_block_and_by_part(base: Path, tmp_path: Path) -> None:
    groups = {"layer_decay": 0.5, "rates": {"attention": 0.1}}
    moved = moved_by_one_step(make_job(base, tmp_path, local(), adapt=FULL, groups=groups, settings=SETTINGS))
    for layer, factor in ((2, 1.0), (1, 0.5), (0, 0.25)):
        block = f"model.model.layers.{layer}"
        assert moved[f"{block}.mlp.up_proj.weight"] == pytest.approx(1e-3 * factor, rel=1e-3)
        assert moved[f"{block}.self_attn.q_proj.weight"] == pytest.approx(1e-4 * factor, rel=1e-3)
    assert moved["model.model.norm.weight"] == pytest.approx(1e-3, rel=1e-3)
    assert moved["model.model.embed_tokens.weight"] == pytest.approx(1e-3 * 0.5**3, rel=1e-3)


def test_lora_plus_moves_b_faster(base: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_steps": 2}
    job = make_job(base, tmp_path, local(), groups={"loraplus_lr_ratio": 16}, settings=settings)
    moved = moved_by_one_step(job)
    seconds = [value for name, value in moved.items() if ".lora_B." in name]
    assert min(seconds) == pytest.approx(16e-3, rel=1e-3) and len(seconds) == 3 * 7


def test_weight_decay_spares_what_a_pattern_names(base: Path, tmp_path: Path) -> None:
    ends = []
    for decay in (0.0, 10.0):
        settings = {**SETTINGS, "weight_decay": decay}
        groups = {"no_decay": ["*.q_proj.weight"]}
        job = make_job(base, tmp_path / str(decay), local(), adapt=FULL, groups=groups, settings=settings)
        fit(job, until=1)
        ends.append({name: each.detach() for name, each in job.policy.named_parameters()})
    without, decayed = ends
    for name in without:
        spared = "q_proj" in name or "norm" in name
        assert torch.equal(without[name], decayed[name]) is spared, name


def test_block_after_block_begins_to_move(base: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    settings = {"epochs": 3.0, "save_steps": 1, "save_total_limit": 20, "learning_rate": 1e-3}
    job = make_job(
        base,
        tmp_path,
        local(),
        adapt=FULL,
        groups=EVERY_THIRD,
        settings=settings,
        emitter=Events(listeners=(seen.append,)),
    )
    (note,) = (event.values for event in seen if event.kind == "note")
    first = sum(each.numel() for each in job.policy.parameters() if each.requires_grad)
    assert note == {"code": "train.unfreeze", "first": first, "left": 3}
    before = {name: each.detach().clone() for name, each in job.policy.named_parameters()}

    def standing() -> set[str]:
        return {name for name, each in job.policy.named_parameters() if torch.equal(each, before[name])}

    below = {f"model.model.layers.{layer}" for layer in range(3)}
    costs = []
    for until, still in ((3, {0, 1}), (6, {0}), (9, set())):
        fit(job, until=until - 1)
        costs.append(job.meter(job.unfreezing.turn).read_only)
        stands = {name[: len("model.model.layers.0")] for name in standing() if ".layers." in name}
        assert stands == {each for each in below if int(each[-1]) in still}
        assert "model.model.embed_tokens.weight" in standing()
        fit(job, until=until)
    fit(job)
    assert not standing()
    assert costs[0] == 2 * costs[1] > costs[2] == 0
    told = [(event.values["step"], event.values["turns_left"]) for event in seen if event.kind == "unfrozen"]
    assert told == [(3, 2), (6, 1), (9, 0)]


def test_what_was_never_set_free_is_told(base: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    job = make_job(
        base, tmp_path, local(), adapt=FULL, groups={"unfreeze": {"blocks": 1, "patience": 50}},
        settings={"epochs": 1.0}, emitter=Events(listeners=(seen.append,)),
    )  # fmt: skip
    fit(job)
    notes = [event.values for event in seen if event.kind == "note"]
    assert notes[-1] == {"code": "train.still_frozen", "left": 3} and "3" in say("train.still_frozen", left=3)


@pytest.mark.parametrize("rule", [{"every_steps": 3}, {"patience": 1}])
def test_a_broken_off_unfreezing_goes_on_where_it_was(base: Path, tmp_path: Path, rule: dict[str, int]) -> None:
    ends = []
    for name, stops in (("whole", (None,)), ("broken", (2, 4, 7, None))):
        for stop in stops:
            settings = {"epochs": 2.0, "eval_steps": 2, "learning_rate": 1e-4}
            job = make_job(
                base,
                tmp_path / name,
                local(),
                adapt=FULL,
                groups={"unfreeze": {"blocks": 1, **rule}},
                settings=settings,
            )
            fit(job, until=stop)
        hashes = folder_hashes(checkpoint_paths(tmp_path / name)[-1])
        ends.append({file: digest for file, digest in hashes.items() if file != "state.json"})
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("adapt", "groups", "setting"),
    [
        (FULL, {"loraplus_lr_ratio": 16}, "loraplus_lr_ratio"),
        (FULL, {"rates": {"bias": 2.0}}, "rates.bias"),
        (FULL, {"no_decay": ["*.experts.*"]}, "no_decay: *.experts.*"),
        ({"kind": "subset", "first_layer": -1}, {"layer_decay": 0.9}, "layer_decay"),
        ({"kind": "subset", "first_layer": -1}, EVERY_THIRD, "unfreeze"),
    ],
)
def test_a_setting_without_effect_is_refused(
    base: Path, tmp_path: Path, adapt: dict[str, object], groups: dict[str, object], setting: str
) -> None:
    with pytest.raises(TunesmithError) as error:
        make_job(base, tmp_path, local(), adapt=adapt, groups=groups)
    assert error.value.code == "adapt.group_without_effect" and error.value.facts["setting"] == setting
