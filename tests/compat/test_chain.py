"""Stages in a row: what each starts from, and which rows of them nobody could train or publish."""

from __future__ import annotations

import pytest

from tunesmith.compat.check import check
from tunesmith.core.errors import TunesmithError
from tunesmith.recipe.chain import data_of, is_continued, is_merged, merged_before, start_of, with_own_seed
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.recipe import Recipe

OWN = "data: {sources: [{path: b.jsonl}]}"
LORA = "adapt: {kind: lora}"
TEACHER = "objective: {kind: distill, teacher: smollm2-135m, level: sequence}"
CLASSES = "data: {task: text_class, sources: [{path: b.jsonl}]}"


def chain(*stages: str, more: str = "", model: str = "base: smollm2-135m", task: str = "chat") -> Recipe:
    listed = "".join(f"  - {{name: s{place}, {each}}}\n" for place, each in enumerate(stages))
    return parse_recipe(
        f"model: {{{model}}}\ndata: {{task: {task}, sources: [{{path: a.jsonl}}]}}\nstages:\n{listed}{more}"
    )


@pytest.mark.parametrize(
    ("stages", "task", "starts"),
    [
        ((LORA, "adapt: {kind: lora, rank: 16}"), "chat", ["base", "continued"]),
        (
            ("adapt: {kind: lora, rank: 4}", "adapt: {kind: lora, rank: 4, lora_alpha: 8.0}"),
            "chat",
            ["base", "continued"],
        ),
        ((LORA, "adapt: {kind: lora, rank: 8}"), "chat", ["base", "merged"]),
        (
            ("adapt: {kind: full}", LORA, LORA),
            "chat",
            ["base", "merged", "continued"],
        ),
        ((OWN, LORA), "chat", ["base", "continued"]),
        ((LORA, LORA), "text_class", ["base", "continued"]),
        ((CLASSES, LORA), "text_class", ["base", "merged"]),
        ((CLASSES, LORA), "chat", ["base", "merged"]),
        (("adapt: {kind: experts, most_used: 2}",) * 2, "chat", ["base", "merged"]),
        (("adapt: {kind: experts}",) * 2, "chat", ["base", "continued"]),
    ],
)
def test_what_a_stage_starts_from(stages: tuple[str, ...], task: str, starts: list[str]) -> None:
    recipe = chain(*stages, task=task)
    check(recipe)
    assert [start_of(recipe, each) for each in recipe.stages] == starts
    behind = [*starts[1:], ""]
    assert [is_continued(recipe, each) for each in recipe.stages] == [each == "continued" for each in behind]
    assert [is_merged(recipe, each) for each in recipe.stages] == [each == "merged" for each in behind]


def test_what_is_continued_stands_on_what_its_first_stage_stood_on() -> None:
    recipe = chain("adapt: {kind: full}", LORA, LORA)
    first, second, third = recipe.stages
    assert merged_before(recipe, first) is None
    assert merged_before(recipe, second) == merged_before(recipe, third) == first


def test_each_stage_draws_its_own_numbers_and_the_first_those_of_a_run_alone() -> None:
    recipe = chain(LORA, "adapt: {kind: lora, rank: 8}")
    seeds = [with_own_seed(recipe, each).train.seed for each in recipe.stages]
    assert seeds[0] == recipe.stages[0].train.seed == recipe.stages[1].train.seed != seeds[1]


def test_a_stage_has_its_own_rows_or_the_runs() -> None:
    recipe = chain(OWN, LORA)
    assert [data_of(recipe, each).sources[0].path for each in recipe.stages] == ["b.jsonl", "a.jsonl"]
    assert list(recipe.sources_beside) == ["s0-train"]


@pytest.mark.parametrize(
    ("code", "stages", "facts"),
    [
        ("rows_unlearned", (OWN, OWN), {}),
        ("last_task", (LORA, CLASSES), {}),
        ("last_task", (LORA, CLASSES), {"task": "text_class"}),
        ("stage_lengths", ("train: {max_length: 256}", "train: {max_length: 512}"), {}),
        ("stage_answers", (TEACHER, LORA), {}),
        ("stage_unmergeable", ("adapt: {kind: bottleneck}", LORA), {}),
        ("stage_unmergeable", ("adapt: {kind: prompt}", "adapt: {kind: prompt, num_virtual_tokens: 4}"), {}),
        (
            "stage_quantized",
            ("adapt: {kind: lora, rank: 8}", LORA),
            {"model": "base: b, quantize: nf4"},
        ),
        ("stage_beside", (LORA, "adapt: {kind: bottleneck}"), {}),
        (
            "stage_adapter",
            ("adapt: {kind: full}", LORA),
            {"more": "ship: {formats: [safetensors, adapter]}\n"},
        ),
        ("head_adaptation", (CLASSES + ", adapt: {kind: experts}", LORA), {}),
        ("one_task", (OWN + ", objective: {kind: multitask}", LORA), {}),
        (
            "stopping_metric",
            (CLASSES + ", train: {early_stopping: {metric: rouge_l}}", LORA),
            {},
        ),
    ],
)
def test_what_cannot_follow_is_refused(code: str, stages: tuple[str, ...], facts: dict[str, str]) -> None:
    with pytest.raises(TunesmithError, match=rf"compat\.{code}"):
        check(chain(*stages, **facts))


@pytest.mark.parametrize("kind", ["bottleneck", "prompt", "lora"])
def test_the_same_adaptation_goes_on_beside_its_base(kind: str) -> None:
    recipe = chain(f"{OWN}, adapt: {{kind: {kind}}}", f"adapt: {{kind: {kind}}}", more="ship: {formats: [adapter]}\n")
    check(recipe)
    quantized = chain(f"adapt: {{kind: {kind}}}", f"adapt: {{kind: {kind}}}", model="base: smollm2-135m, quantize: nf4")
    check(quantized)
