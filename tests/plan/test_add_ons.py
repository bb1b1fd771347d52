"""What add-ons cost: rows of a pass as the source takes them, bytes as the penalties hold them."""

from __future__ import annotations

import pytest
import torch

from tunesmith.models.packed import Features
from tunesmith.objectives.domains import DomainClassifier
from tunesmith.plan.add_ons import (
    domain_classifier_numbers,
    held_bytes,
    measured_tokens,
    reads_ahead,
    rows_of_an_epoch,
    validated_tokens,
)
from tunesmith.plan.sizes import ModelSize, adapted_numbers
from tunesmith.recipe.recipe import StageSpec
from tunesmith.recipe.specs.objectives import AdversarialSpec, MultitaskSpec
from tunesmith.train.domains import domain_source
from tunesmith.train.mixing import MixedSource
from tunesmith.train.replay import ReplaySource

SIZE = ModelSize(layers=2, hidden=8, query_width=8, key_width=4, inner=16, vocabulary=32, tied=True)
OLD = [{"path": "old.jsonl"}]


def stage(**settings: object) -> StageSpec:
    return StageSpec.model_validate({"name": "s", **settings})


@pytest.mark.parametrize(("rows", "batch", "share"), [(40, 8, 0.25), (24, 4, 0.5), (9, 8, 0.1)])
def test_a_pass_has_the_rows_and_steps_of_the_source(rows: int, batch: int, share: float) -> None:
    spec = stage(replay={"sources": OLD, "share": share}, train={"batch_size": batch})
    new, old = ([Features(place, (1, 2), (0.0, 1.0)) for place in range(count)] for count in (rows, 7))
    assert spec.replay is not None
    source = ReplaySource(new, old, batch, spec.replay.old_rows(batch), seed=1)
    found = rows_of_an_epoch(spec, new, {"replay": old})
    assert -(-len(found) // batch) == source.windows_per_epoch
    assert 0 <= len(found) - (rows + source.old_per_epoch) < batch, "only the last, small step is taken as whole"
    assert rows_of_an_epoch(stage(), new, {}) == new


@pytest.mark.parametrize(
    "settings", [{}, {"sampling_temperature": 1e6}, {"sampling_temperature": 3.0, "sampling_by": "tokens"}]
)
def test_a_pass_over_several_tasks_has_the_rows_of_the_source(settings: dict[str, object]) -> None:
    spec = stage(objective={"kind": "multitask", **settings}, train={"batch_size": 4})
    rows = [
        Features(place, (1,) * (9 if place < 5 else 3), (0.0,) + (1.0,) * (8 if place < 5 else 2))
        for place in range(40)
    ]
    tasks = {row.row: "long" if row.row < 5 else "short" for row in rows}
    assert isinstance(spec.objective, MultitaskSpec)
    source = MixedSource(rows, tasks, 4, spec.objective, seed=1)
    trained = [row for step in range(source.windows_per_epoch) for row in source.window(step)]
    found = rows_of_an_epoch(spec, rows, {}, tasks)
    assert sum(len(row.token_ids) for row in found) == sum(len(row.token_ids) for row in trained)


def test_old_rows_stand_beside_those_of_several_tasks() -> None:
    spec = stage(
        objective={"kind": "multitask", "sampling_temperature": 1e6}, replay={"sources": OLD, "share": 0.25},
        train={"batch_size": 8},
    )  # fmt: skip
    rows, old = ([Features(place, (1, 2), (0.0, 1.0)) for place in range(count)] for count in (40, 7))
    tasks = {row.row: "a" if row.row < 5 else "b" for row in rows}
    assert isinstance(spec.objective, MultitaskSpec) and spec.replay is not None
    beside = spec.replay.old_rows(8)
    new = MixedSource(rows, tasks, 8 - beside, spec.objective, seed=1)
    source = ReplaySource(rows, old, 8, beside, seed=1, new=new)
    assert -(-len(rows_of_an_epoch(spec, rows, {"replay": old}, tasks)) // 8) == source.windows_per_epoch


def test_only_an_order_by_loss_reads_the_rows_before() -> None:
    rows = [Features(place, (1, 2, 3), (0.0, 1.0, 1.0)) for place in range(5)]
    assert measured_tokens(stage(curriculum={"by": "loss"}), rows) == 15
    assert measured_tokens(stage(curriculum={"by": "length"}), rows) == measured_tokens(stage(), rows) == 0


DOMAINS = {"kind": "adversarial", "target_sources": OLD}


@pytest.mark.parametrize(("rows", "batch", "share"), [(40, 8, 0.5), (9, 4, 0.25)])
def test_a_pass_over_two_domains_has_the_steps_of_the_source(rows: int, batch: int, share: float) -> None:
    objective = {**DOMAINS, "target_share": share, "reversal": {}}
    spec = stage(objective=objective, train={"batch_size": batch})
    new, others = ([Features(place, (1, 2), (1.0, 0.0), ((0,),)) for place in range(count)] for count in (rows, 7))
    assert isinstance(spec.objective, AdversarialSpec)
    source = domain_source(spec.objective, new, others, batch, seed=1)
    found = rows_of_an_epoch(spec, new, {"target": others})
    assert -(-len(found) // batch) == source.windows_per_epoch
    assert 0 <= len(found) - (rows + source.old_per_epoch) < batch


@pytest.mark.parametrize(
    ("metric", "rows", "tokens"), [("loss", 4, 30), ("adapted_loss", 64, 90), ("adapted_loss", 5, 70)]
)
def test_a_distance_that_decides_is_looked_at_in_every_validation(metric: str, rows: int, tokens: int) -> None:
    """Ten rows of three tokens, six of five of the target: the loss takes 30, all of both 60, five of both 15 + 25."""
    stopping = {"early_stopping": {"metric": metric, "rows": rows}}
    spec = stage(objective={**DOMAINS, "kl": 1.0}, train=stopping)
    source = [Features(place, (1, 2, 3), (0.0, 1.0, 1.0)) for place in range(10)]
    target = [Features(place, (1, 2, 3, 4, 5), (0.0,) * 5) for place in range(6)]
    assert validated_tokens(spec, source, {"target": target}) == tokens
    assert validated_tokens(stage(), source, {}) == 30


def test_what_a_domain_classifier_holds_is_counted() -> None:
    spec = stage(objective={**DOMAINS, "reversal": {"hidden_size": 16}})
    own = DomainClassifier(SIZE.hidden, 16, torch.float32, seed=1)
    numbers = sum(each.numel() for each in own.parameters())
    assert domain_classifier_numbers(SIZE, spec) == numbers
    assert held_bytes(SIZE, spec) == 16 * numbers, "weights, gradients and two moments"
    assert held_bytes(SIZE, stage(objective={**DOMAINS, "kl": 1.0})) == 0


@pytest.mark.parametrize(
    ("objective", "train", "at_once", "times"),
    [
        ({"kl": 1.0}, {}, 80, 0),
        ({"kl": 1.0}, {"gradient_accumulation_steps": 2}, 80, 1),
        ({"kl": 1.0, "mmd": {}}, {"packing": False}, 80, 1),
        ({"mmd": {}}, {"batch_size": "auto"}, 80, 0),
        ({"mmd": {}}, {"batch_size": "auto"}, 79, 1),
        ({"reversal": {}}, {"batch_size": "auto"}, 40, 0),
    ],
)
def test_a_step_in_parts_is_read_ahead(objective: dict[str, object], train: object, at_once: int, times: int) -> None:
    """Rows of ten tokens, eight a step, so that up to eighty tokens meet in a pass."""
    load = (100, 1000, at_once)
    balance = {"router_balance": 0.01}
    assert reads_ahead(stage(objective={**DOMAINS, **objective}, train=train), *load) == times
    in_parts = times > 0 or objective.keys() == {"reversal"}
    assert reads_ahead(stage(train=train, penalties=balance), *load) == in_parts
    assert reads_ahead(stage(objective={**DOMAINS, **objective}, train=train, penalties=balance), *load) == (
        times + in_parts
    )
    assert reads_ahead(stage(train=train), *load) == 0


def test_bytes_of_penalties() -> None:
    ewc = {"ewc": {"weight": 1.0, "sources": OLD}}
    lora, full = {"kind": "lora", "rank": 2}, {"kind": "full"}
    assert held_bytes(SIZE, stage(adapt=full)) == held_bytes(SIZE, stage(adapt=full, penalties={"l1": 1.0})) == 0
    assert held_bytes(SIZE, stage(adapt=full, penalties={"l2_sp": 1.0})) == 4 * SIZE.parameters
    assert held_bytes(SIZE, stage(adapt=full, penalties={**ewc, "l2_sp": 1.0})) == 12 * SIZE.parameters
    assert held_bytes(SIZE, stage(adapt=full), SIZE, "bfloat16") == 2 * SIZE.parameters, "a teacher in memory"
    spec = stage(adapt=lora, penalties=ewc)
    assert held_bytes(SIZE, spec) == 4 * SIZE.block_parameters, (
        "the addition's start is zero, F is of the layers' weights"
    )
    assert adapted_numbers(SIZE, spec.adapt) == SIZE.block_parameters  # type: ignore[arg-type]
