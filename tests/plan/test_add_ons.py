"""What add-ons cost: rows of a pass as the source takes them, bytes as the penalties hold them."""

from __future__ import annotations

import pytest

from tunesmith.models.packed import Features
from tunesmith.plan.add_ons import held_bytes, rows_of_an_epoch
from tunesmith.plan.sizes import ModelSize, adapted_numbers
from tunesmith.recipe.recipe import StageSpec
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
    source = ReplaySource(new, old, batch, spec.replay, seed=1)
    found = rows_of_an_epoch(spec, new, {"replay": old})
    assert -(-len(found) // batch) == source.windows_per_epoch
    assert 0 <= len(found) - (rows + source.old_per_epoch) < batch, "only the last, small step is taken as whole"
    assert rows_of_an_epoch(stage(), new, {}) == new


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
