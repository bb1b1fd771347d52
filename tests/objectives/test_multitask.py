"""Several tasks: how often each comes, what each one's loss is, and the same step whatever its layout."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from fits import local, make_job
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from tunesmith.compat.check import check
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.core.files import folder_hashes
from tunesmith.models.packed import Features
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.specs.objectives import MultitaskSpec
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import fit
from tunesmith.train.mixing import MixedSource


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "base", spread=0.1)


def multitask(**settings: object) -> dict[str, object]:
    return {"objective": {"kind": "multitask", **settings}}


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0, 1e6])
def test_tasks_come_in_proportion_to_a_power_of_their_rows(temperature: float) -> None:
    sizes = {"large": 900, "middle": 90, "small": 10}
    found = MultitaskSpec(sampling_temperature=temperature).rows_by_task(sizes, {})
    assert sum(found.values()) == 1000
    powers = {name: size ** (1 / temperature) for name, size in sizes.items()}
    for name, rows in found.items():
        assert abs(rows - 1000 * powers[name] / sum(powers.values())) <= 1
    if temperature == 1.0:
        assert found == sizes


def test_the_smallest_task_comes_at_least_once() -> None:
    by_size, evened = MultitaskSpec(), MultitaskSpec(sampling_temperature=3.0)
    assert by_size.rows_by_task({"large": 10_000, "small": 1}, {}) == {"large": 10_000, "small": 1}
    assert evened.rows_by_task({str(place): 1 for place in range(7)}, {}) == {str(place): 1 for place in range(7)}


@pytest.mark.parametrize("temperature", [2.0, 5.0, 1e6])
def test_tokens_of_tasks_come_in_proportion_to_a_power_of_them(temperature: float) -> None:
    sizes, tokens = {"short": 3000, "long": 200, "middle": 800}, {"short": 30_000, "long": 60_000, "middle": 40_000}
    spec = MultitaskSpec(sampling_temperature=temperature, sampling_by="tokens")
    rows = spec.rows_by_task(sizes, tokens)
    assert sum(rows.values()) == 4000
    seen = {name: rows[name] * tokens[name] / sizes[name] for name in sizes}
    for one in sizes:
        wished = (tokens[one] / tokens["short"]) ** (1 / temperature)
        assert seen[one] / seen["short"] == pytest.approx(wished, rel=0.02)


def test_evening_out_tokens_without_a_temperature_is_refused() -> None:
    with pytest.raises(ValidationError, match="sampling_by"):
        MultitaskSpec(sampling_by="tokens")


def test_a_source_evens_out_the_tokens_of_its_own_rows() -> None:
    long = [Features(place, (1,) * 12, (0.0,) + (1.0,) * 11) for place in range(10)]
    short = [Features(place, (1,) * 4, (0.0,) + (1.0,) * 3) for place in range(10, 40)]
    tasks = {row.row: "long" if row in long else "short" for row in (*long, *short)}
    source = MixedSource([*long, *short], tasks, 8, MultitaskSpec(sampling_temperature=1e6, sampling_by="tokens"), 1)
    assert source.rows_by_task == {"long": 10, "short": 30}, "each has 120 tokens already"
    halved = [row for row in short if row.row < 25]
    source = MixedSource([*long, *halved], tasks, 5, MultitaskSpec(sampling_temperature=1e6, sampling_by="tokens"), 1)
    assert source.rows_by_task == {"long": 6, "short": 19} and source.windows_per_epoch == 5


def rows(count: int) -> list[Features]:
    return [Features(place, (1, 2, 3 + place % 5), (0.0, 1.0, 1.0)) for place in range(count)]


EVEN = MultitaskSpec(sampling_temperature=1e6)
TASKS = {place: "small" if place < 6 else "large" for place in range(30)}


def test_the_order_is_an_index_function_and_rows_come_round(tmp_path: Path) -> None:
    source = MixedSource(rows(30), TASKS, 4, EVEN, seed=1)
    assert source.rows_by_task == {"small": 15, "large": 15} and source.windows_per_epoch == 8
    steps = range(3 * source.windows_per_epoch)
    forward = [[row.row for row in source.window(step)] for step in steps]
    again = MixedSource(rows(30), TASKS, 4, EVEN, seed=1)
    backward = {step: [row.row for row in again.window(step)] for step in reversed(steps)}
    assert forward == [backward[step] for step in steps]
    seen = Counter(row for each in forward for row in each)
    counts = {task: [seen[row] for row in TASKS if TASKS[row] == task] for task in ("small", "large")}
    assert sum(counts["small"]) == sum(counts["large"]) == 45
    assert all(max(each) - min(each) <= 1 for each in counts.values())
    by_size = MixedSource(rows(30), TASKS, 4, MultitaskSpec(), seed=1)
    first = [row.row for step in range(8) for row in by_size.window(step)]
    assert sorted(first) == list(range(30)), "by size, every row is seen once an epoch"


def test_each_task_has_the_mean_of_its_own_tokens(base: Path, tmp_path: Path) -> None:
    job = make_job(
        base, tmp_path, local(), add_ons=multitask(weights={"threes": 3.0}), dtype=torch.float64,
        settings={"batch_size": 6},
    )  # fmt: skip
    window = job.source.window(0)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    sums, tokens = {"threes": 0.0, "others": 0.0}, {"threes": 0.0, "others": 0.0}
    for row in window:
        ids = torch.tensor([row.token_ids])
        weights = torch.tensor(row.weights[1:], dtype=torch.float64)
        with torch.no_grad():
            shares = torch.log_softmax(plain(ids).logits[0, :-1], -1)
        task = "threes" if row.row % 3 == 0 else "others"
        sums[task] -= float((shares.gather(1, ids[0, 1:, None])[:, 0] * weights).sum())
        tokens[task] += float(weights.sum())
    (batch,) = job.passes.cut(0, window)
    told = job.objective.loss(job.policy, batch)
    assert job.objective.count(batch) == {f"loss/{task}": count for task, count in tokens.items()}
    assert float(told["loss/threes"].detach()) == pytest.approx(0.75 * sums["threes"], rel=1e-6)
    assert float(told["loss/others"].detach()) == pytest.approx(0.25 * sums["others"], rel=1e-6)


def test_the_layout_of_a_step_does_not_change_it_and_a_step_may_lack_a_task(base: Path, tmp_path: Path) -> None:
    layouts = {
        "8": {"batch_size": 8},
        "2 x 4": {"batch_size": 4, "gradient_accumulation_steps": 2},
        "8 x 1": {"batch_size": 1, "gradient_accumulation_steps": 8},
    }
    ends = []
    for name, layout in layouts.items():
        seen: list[Event] = []
        job = make_job(
            base, tmp_path / name, local(), add_ons=multitask(weights={"threes": 2.0}), rows=20, dtype=torch.float64,
            settings={"optimizer": "sgd", "epochs": 1.0, **layout}, emitter=Events(None, (seen.append,)),
        )  # fmt: skip
        fit(job)
        ends.append({key: each.detach().clone() for key, each in job.optimizer.masters.items()})
        for event in seen:
            if event.kind in ("step", "validation"):
                values = {key: float(str(value)) for key, value in event.values.items() if key.startswith("loss")}
                assert values["loss"] == pytest.approx(values["loss/threes"] + values["loss/others"])
    for other in ends[1:]:
        for key, each in ends[0].items():
            assert (each - other[key]).norm() <= 1e-9 * each.norm().clamp_min(1e-12), key


def test_broken_off_and_gone_on(base: Path, tmp_path: Path) -> None:
    ends = []
    for name, stops in (("whole", (None,)), ("broken", (2, 9, None))):
        for stop in stops:
            fit(make_job(base, tmp_path / name, local(), add_ons=multitask(sampling_temperature=4.0)), until=stop)
        hashes = folder_hashes(checkpoint_paths(tmp_path / name)[-1])
        ends.append({file: digest for file, digest in hashes.items() if file != "state.json"})
    assert ends[0] == ends[1]


RECIPE = "model: {base: m}\ndata: {sources: [{path: a.jsonl, name: a}, {path: b.jsonl}]}\nstages: [{name: s}]\n"
REFUSED = {
    "compat.one_task": ["data.sources=[{path: a.jsonl}]"],
    "compat.unknown_task": ["stages.0.objective={kind: multitask, weights: {c: 2.0}}"],
    "recipe.bad_value": ["stages.0.objective={kind: multitask, weights: {a: 0.0}}"],
}


@pytest.mark.parametrize("code", REFUSED)
def test_what_is_no_set_of_tasks_is_refused(code: str) -> None:
    with pytest.raises(TunesmithError) as error:
        check(parse_recipe(RECIPE, ["stages.0.objective={kind: multitask}", *REFUSED[code]]))
    assert error.value.code == code
    check(parse_recipe(RECIPE, ["stages.0.objective={kind: multitask, weights: {a: 2.0, b.jsonl: 1.0}}"]))


def test_old_rows_belong_to_a_task_that_is_trained() -> None:
    stated = ["stages.0.objective={kind: multitask}", "stages.0.replay={sources: [{path: o.jsonl}]}"]
    with pytest.raises(TunesmithError, match="unknown_task"):
        check(parse_recipe(RECIPE, stated))
    check(parse_recipe(RECIPE, [stated[0], "stages.0.replay={sources: [{path: o.jsonl, name: a}]}"]))


def test_old_rows_are_a_task_of_their_own_where_a_weight_names_it() -> None:
    replayed = "stages.0.replay={sources: [{path: o.jsonl, name: old}]}"
    weighed = "stages.0.objective={kind: multitask, weights: {old: 0.5}}"
    check(parse_recipe(RECIPE, [weighed, replayed]))
    check(parse_recipe(RECIPE, [weighed, replayed, "data.sources=[{path: a.jsonl}]"]))
    with pytest.raises(TunesmithError, match="unknown_task"):
        check(parse_recipe(RECIPE, [weighed]))


def test_validation_rows_belong_to_a_task_that_is_trained() -> None:
    stated = ["stages.0.objective={kind: multitask}", "data.validation_sources=[{path: v.jsonl}]"]
    with pytest.raises(TunesmithError, match="unknown_task"):
        check(parse_recipe(RECIPE, stated))
    check(parse_recipe(RECIPE, [stated[0], "data.validation_sources=[{path: v.jsonl, name: a}]"]))
