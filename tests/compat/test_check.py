"""Combinations that no code serves are refused by name."""

from __future__ import annotations

import pytest

from tunesmith.compat.check import TASK_METRICS, check
from tunesmith.core.errors import TunesmithError
from tunesmith.evaluate.metrics import METRICS
from tunesmith.recipe.load import parse_recipe

RECIPE = "model: {base: smollm2-135m}\ndata: {sources: [{path: a.jsonl}]}\nstages: [{name: instruct}]\n"


def test_the_plain_recipe_is_fine() -> None:
    check(parse_recipe(RECIPE))


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("data.rows=preference", "compat.rows"),
        ("data.rows=kto", "compat.rows"),
        ("data.rows=text", "compat.rows"),
        ("stages.0.train.early_stopping.metric=json_exactly", "compat.stopping_metric"),
        ("stages.0.train={packing: false, batch_size: auto}", "compat.auto_batch_unpacked"),
        ("stages.0={name: a, curriculum: {}, replay: {sources: [{path: o.jsonl}]}}", "compat.curriculum_order"),
        ("stages.0={name: instruct, adapt: {kind: full}}", "compat.whole_weights"),
        ("stages.0={name: instruct, adapt: {kind: bottleneck}}", "compat.format_needs_merge"),
    ],
)
def test_what_nothing_serves_is_refused(override: str, code: str) -> None:
    stages = RECIPE.replace("{name: instruct}", "{name: instruct, train: {early_stopping: {}}}")
    stages += "ship: {formats: [adapter]}\n" if "full" in override else ""
    stages += "ship: {formats: [adapter, safetensors]}\n" if "bottleneck" in override else ""
    with pytest.raises(TunesmithError, match=code):
        check(parse_recipe(stages, [override]))


def test_what_is_published_depends_on_the_change_where_the_recipe_leaves_it_open() -> None:
    assert parse_recipe(RECIPE).formats == ["safetensors", "gguf-q8_0"]
    recipe = parse_recipe(RECIPE, ["stages.0={name: instruct, adapt: {kind: bottleneck}}"])
    assert recipe.formats == ["adapter"]
    check(recipe)


def test_the_metrics_are_those_that_are_computed() -> None:
    assert {metric for metrics in TASK_METRICS.values() for metric in metrics} == set(METRICS)
