"""The card's line of the method names all that was done, so that nobody takes one training for another."""

from __future__ import annotations

import pytest

from tunesmith.evaluate.method import method_of
from tunesmith.recipe.load import parse_recipe

RECIPE = "model: {base: m}\ndata: {sources: [{path: a.jsonl}]}\nstages: [{name: s}]\n"
OLD = "sources: [{path: o.jsonl}]"
SAID = {
    "LoRA, rank 16": [],
    "full, L2-SP 0.01": ["stages.0.adapt={kind: full}", "stages.0.penalties={l2_sp: 0.01}"],
    "LoRA, rank 16, EWC 30, L1 1e-05, replay 25%": [
        f"stages.0.penalties={{l1: 0.00001, ewc: {{weight: 30, {OLD}}}}}",
        f"stages.0.replay={{share: 0.25, {OLD}}}",
    ],
    "LoRA, rank 16, distilled from logits of t": ["stages.0.objective={kind: distill, teacher: t}"],
    "LoRA, rank 16, distilled from answers of t": ["stages.0.objective={kind: distill, teacher: t, level: sequence}"],
    "LoRA, rank 16, adapted to an unlabelled domain, gradient reversal up to 0.5 (domain classifier not published), "
    "KL 0.1, MMD 2": [
        f"stages.0.objective={{kind: adversarial, reversal: {{max_lambda: 0.5}}, kl: 0.1, mmd: {{weight: 2.0}}, "
        f"target_{OLD}}}"
    ],
    "LoRA, rank 16, multitask": ["stages.0.objective={kind: multitask}"],
}


@pytest.mark.parametrize("said", SAID)
def test_the_method_is_named_whole(said: str) -> None:
    recipe = parse_recipe(RECIPE, SAID[said])
    assert method_of(recipe, recipe.stages[-1]) == said
