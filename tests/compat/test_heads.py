"""Tasks with heads that do not fit together are refused by name."""

from __future__ import annotations

import pytest

from tunesmith.compat.check import check
from tunesmith.core.errors import TunesmithError
from tunesmith.recipe.load import parse_recipe

RECIPE = """
model: {base: m}
data:
  tasks: {a: text_class, b: multi_label}
  sources: [{path: a.jsonl, name: a}, {path: b.jsonl, name: b}]
stages: [{name: s, objective: {kind: multitask}}]
"""
REFUSED = {
    "compat.heads_objective": ["stages.0.objective={kind: supervised}"],
    "compat.embeddings_beside": [
        "stages.0.adapt={kind: bottleneck}",
        "stages.0.objective={kind: multitask, task_embeddings: true}",
    ],
    "compat.heads_old_rows": ["stages.0.penalties={ewc: {weight: 1.0, sources: [{path: o.jsonl}]}}"],
    "compat.unknown_task": ["stages.0.replay={sources: [{path: o.jsonl, name: c}]}"],
    "compat.heads_rows": ["data.task=text_class", "data.rows=multi_label"],
    "compat.heads_augment": ["data.augment={balance: {by: label}}"],
    "compat.source_without_task": ["data.test_sources=[{path: t.jsonl}]"],
    "compat.task_without_source": ["data.validation_sources=[{path: v.jsonl, name: a}]"],
    "compat.task_without_metric": ["evaluate.metrics=[accuracy]", "data.tasks={a: text_class, b: token_class}"],
    "compat.metric_of_task": ["evaluate.metrics=[entity_f1]"],
    "compat.stopping_metric": ["stages.0.train={early_stopping: {metric: entity_f1}}"],
    "compat.one_task": ["data.tasks={a: text_class}", "data.sources=[{path: a.jsonl, name: a}]"],
    "recipe.bad_value": ["data.tasks={A B: text_class, b: chat}"],
}


@pytest.mark.parametrize("code", REFUSED)
def test_refused(code: str) -> None:
    check(parse_recipe(RECIPE))
    with pytest.raises(TunesmithError) as error:
        check(parse_recipe(RECIPE, REFUSED[code]))
    assert error.value.code == code


def test_old_rows_are_of_tasks_that_have_heads() -> None:
    check(parse_recipe(RECIPE, ["stages.0.replay={sources: [{path: o.jsonl, name: b}]}"]))
    check(parse_recipe(RECIPE, ["stages.0.penalties={ewc: {weight: 1.0, sources: [{path: o.jsonl, name: a}]}}"]))
    with pytest.raises(TunesmithError, match="unknown_task"):
        check(parse_recipe(RECIPE, ["stages.0.objective={kind: multitask, weights: {c: 2.0}}"]))


ONLY_OLD = [
    "data.sources=[{path: a.jsonl, name: a}]",
    "data.validation_sources=[{path: v.jsonl, name: a}, {path: w.jsonl, name: b}]",
    "data.test_sources=[{path: t.jsonl, name: a}, {path: u.jsonl, name: b}]",
    "stages.0.replay={sources: [{path: o.jsonl, name: b}]}",
]


def test_a_task_with_old_rows_alone_names_its_validation_and_test_rows() -> None:
    check(parse_recipe(RECIPE, ONLY_OLD))
    for missing, where in ((1, "validation_sources"), (2, "test_sources")):
        with pytest.raises(TunesmithError, match="task_without_source") as error:
            check(parse_recipe(RECIPE, [each for place, each in enumerate(ONLY_OLD) if place != missing]))
        assert error.value.facts["where"] == where
    with pytest.raises(TunesmithError, match="one_task"):
        check(parse_recipe(RECIPE, ONLY_OLD[:-1]))


def test_vectors_of_tasks_need_tasks_with_heads() -> None:
    plain = "model: {base: m}\ndata: {sources: [{path: a, name: a}, {path: b}]}\nstages: [{name: s}]\n"
    stated = "stages.0.objective={kind: multitask, task_embeddings: true}"
    with pytest.raises(TunesmithError, match="embeddings_without_heads"):
        check(parse_recipe(plain, [stated]))
    check(parse_recipe(RECIPE, [stated]))


def test_what_is_left_open_follows_from_the_tasks() -> None:
    recipe = parse_recipe(RECIPE)
    assert (recipe.data.task, recipe.data.rows) == ("text_class", "text_class")
    assert recipe.evaluate.metrics == ["accuracy", "macro_f1", "micro_f1"]
    assert recipe.evaluate.metrics_of("multi_label") == ["micro_f1", "macro_f1", "accuracy"]
    assert recipe.evaluate.metrics_of("text_class") == ["accuracy", "macro_f1"]
    assert [recipe.data.kind_of(name) for name in ("a", "b")] == ["text_class", "text_class"]
    tags = parse_recipe(RECIPE, ["data.tasks={a: token_class, b: token_class}"])
    assert tags.data.task == "token_class" and tags.evaluate.metrics == ["entity_f1", "token_accuracy"]
    mixed = parse_recipe(RECIPE, ["data.tasks={a: token_class, b: multi_label}"])
    assert mixed.data.task == "text_class" and mixed.data.kind_of("a") == "token_class"
    again = parse_recipe(mixed.as_yaml())
    assert again == mixed
    plain = parse_recipe("model: {base: m}\ndata: {sources: [{path: a}]}\nstages: [{name: s}]\n")
    assert "tasks" not in plain.as_yaml()
