"""Readiness, advice and cautions: every rule at its edge, in both languages, with its source."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunesmith.messages import LANGUAGES
from tunesmith.plan.advise import RULES, Advice, Situation, advise, range_warnings
from tunesmith.plan.cautions import CAUTIONS, BaseFacts, Circumstances, RowFacts, cautions, chinese_share
from tunesmith.plan.readiness import ReadinessFacts, assess
from tunesmith.recipe.specs.adapt import AdaptSpec, FullSpec, LoraSpec
from tunesmith.recipe.specs.beginnings import PrefixSpec, PromptSpec, PTuningSpec
from tunesmith.recipe.specs.goal import GoalSpec, TargetSpec
from tunesmith.recipe.specs.train import EarlyStoppingSpec, TrainSpec

GIB = 2.0**30
GOAL = GoalSpec(
    problem="Tickets must be read.",
    need=["format"],
    tried=["prompting"],
    target=TargetSpec(),
    business_metric="first-contact resolution",
)
GOOD = ReadinessFacts(
    goal=GOAL,
    method="lora",
    train_rows=960,
    validation_rows=96,
    test_rows=200,
    base_licence="Apache-2.0",
    data_licences=("CC0-1.0",),
    duplicate_share=0.0,
    memory_needed=2 * GIB,
    memory_free=20 * GIB,
    sources_there=True,
)


def test_a_well_prepared_run_is_ready() -> None:
    found = assess(GOOD)
    assert found.state == "ready"
    assert {each.level for each in found.findings} == {"good"}


@pytest.mark.parametrize(
    ("change", "code", "state"),
    [
        ({"test_rows": 0}, "no_test", "blocked"),
        ({"train_rows": 0}, "no_rows", "blocked"),
        ({"train_rows": 49}, "few_rows", "risky"),
        ({"test_rows": 99}, "few_test_rows", "risky"),
        ({"validation_rows": 0}, "no_validation", "risky"),
        ({"method": "full"}, "full_wants_more", "risky"),
        ({"memory_needed": 18 * GIB}, "memory_tight", "risky"),
        ({"memory_needed": 27 * GIB}, "memory_tight", "risky"),
        ({"memory_needed": 29 * GIB}, "memory_short", "blocked"),
        ({"base_licence": ""}, "base_licence_unknown", "risky"),
        ({"base_licence": "cc-by-nc-4.0"}, "base_licence_not_commercial", "risky"),
        ({"base_licence": "llama3.2"}, "base_licence_own_terms", "ready"),
        ({"data_licences": ("",)}, "data_licence_unknown", "ready"),
        ({"data_licences": ("CC-BY-NC-4.0",)}, "data_licence_not_commercial", "risky"),
        ({"duplicate_share": 0.5}, "many_duplicates", "ready"),
        ({"sources_there": False}, "retuning_impossible", "risky"),
        ({"needs_future_tuning": False}, "no_retuning", "ready"),
        ({"goal": GOAL.model_copy(update={"tried": []})}, "nothing_tried", "risky"),
        ({"goal": GOAL.model_copy(update={"target": None})}, "no_target", "risky"),
        ({"goal": GOAL.model_copy(update={"need": ["domain"]})}, "no_rag", "ready"),
    ],
)
def test_each_rule_speaks(change: dict[str, object], code: str, state: str) -> None:
    found = assess(replace(GOOD, **change))  # type: ignore[arg-type]
    assert code in [each.code for each in found.findings]
    assert found.state == state
    for each in found.findings:
        words = each.words()
        assert set(words) == set(LANGUAGES) and words["en"] != words["zh"]
        assert "{" not in "".join(words.values())


def test_the_gravest_finding_comes_first_and_hides_no_other() -> None:
    found = assess(replace(GOOD, test_rows=0, base_licence="", train_rows=10))
    assert [each.level for each in found.findings][:3] == ["blocked", "risky", "risky"]


def test_full_tuning_is_welcome_from_100_000_rows() -> None:
    assert assess(replace(GOOD, method="full", train_rows=100_001)).state == "ready"


def test_the_width_that_is_told_is_that_of_the_interval() -> None:
    from tunesmith.evaluate.intervals import wilson

    (found,) = [each for each in assess(replace(GOOD, test_rows=60)).findings if each.code == "few_test_rows"]
    interval = wilson(0.5, 60)
    assert float(str(found.facts["points"])) == pytest.approx(50 * (interval.high - interval.low), abs=1)


# ---------------------------------------------------------------------------------------------- advice

SMALL = Situation(rows=5_000, parameters=135_000_000, trained_parameters=600_000, memory_bytes=20_000_000_000)


def rules_of(found: tuple[Advice, ...]) -> set[str]:
    return {each.rule for each in found}


@pytest.mark.parametrize(
    ("change", "rule", "speaks"),
    [
        ({}, "lora", True),
        ({"parameters": 7_000_000_000}, "lora", True),
        ({"parameters": 8_000_000_000}, "lora", False),
        ({"parameters": 9_000_000_000}, "qlora", True),
        ({"parameters": 70_000_000_000}, "qlora", False),
        ({"parameters": 70_000_000_000}, "smaller_base", True),
        ({"parameters": 10_000_000_000}, "large_model", True),
        ({"parameters": 9_999_999_999}, "large_model", False),
        ({"rows": 200_000}, "full", True),
        ({"rows": 100_000}, "full", False),
        ({"rows": 999, "trained_parameters": 5_000_000}, "small_data", True),
        ({"rows": 999}, "small_data", False),
        ({"rows": 1_000, "trained_parameters": 5_000_000}, "small_data", False),
        ({"gpus": 1, "parameters": 7_000_000_000}, "consumer_gpu", True),
        ({"need": ("style",)}, "style", True),
        ({"task": "classify"}, "classify", True),
        ({"private": True}, "private", True),
    ],
)
def test_rules_of_method_and_base_at_their_edges(change: dict[str, object], rule: str, speaks: bool) -> None:
    found = advise(replace(SMALL, **change))  # type: ignore[arg-type]
    assert (rule in rules_of(found)) is speaks


def test_every_rule_has_a_source_and_words() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.source
        words = Advice(rule.name, rule.source, {"rows": 1, "parameters": "1M", "memory": "1"}).words()
        assert set(words) == set(LANGUAGES) and words["en"] != words["zh"]


@pytest.mark.parametrize(
    ("adapt", "train", "expected"),
    [
        (LoraSpec(), {"learning_rate": 2e-4}, set()),
        (LoraSpec(), {"learning_rate": 1e-2}, {"rate_high"}),
        (LoraSpec(), {"learning_rate": 2e-5}, {"rate_low"}),
        (FullSpec(), {"learning_rate": 2e-5}, set()),
        (FullSpec(), {"learning_rate": 1e-3}, {"rate_high"}),
        (LoraSpec(rank=4), {"learning_rate": 2e-4}, {"rank"}),
        (LoraSpec(rank=128), {"learning_rate": 2e-4}, {"rank"}),
        (LoraSpec(), {"learning_rate": 2e-4, "weight_decay": 0.5}, {"weight_decay"}),
        (PromptSpec(), {"learning_rate": 3e-2}, set()),
        (PromptSpec(), {"learning_rate": 2e-4}, {"rate_low"}),
        (PrefixSpec(prefix_projection=True), {"learning_rate": 2e-4}, set()),
        (PTuningSpec(), {"learning_rate": 3e-2}, {"rate_high"}),
    ],
)
def test_settings_outside_the_known_range(adapt: AdaptSpec, train: dict[str, float], expected: set[str]) -> None:
    found = range_warnings(adapt, TrainSpec(**train), hidden=2048)  # type: ignore[arg-type]
    assert rules_of(found) == expected
    assert all(each.source for each in found)


def test_a_narrow_model_bears_a_larger_step() -> None:
    train = TrainSpec(learning_rate=1e-3)
    assert rules_of(range_warnings(LoraSpec(), train, hidden=4096)) == {"rate_high"}
    assert rules_of(range_warnings(LoraSpec(), train, hidden=576)) == set()


# -------------------------------------------------------------------------------------------- cautions

CALM = Circumstances(TrainSpec(), RowFacts(960, 300, 0, 0.0), BaseFacts(("en",)), 0.1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, set()),
        ({"train": TrainSpec(epochs=6.0, early_stopping=EarlyStoppingSpec(patience=3))}, {"many_epochs"}),
        ({"train": TrainSpec(epochs=4.0)}, {"no_patience"}),
        ({"train": TrainSpec(max_length=4096)}, {"far_limit"}),
        ({"rows": RowFacts(960, 300, 100, 0.0)}, {"cut_rows"}),
        ({"rows": RowFacts(960, 300, 0, 0.9)}, {"language"}),
        ({"rows": RowFacts(960, 300, 0, 0.9), "base": BaseFacts(("en", "zh"))}, set()),
        ({"rows": RowFacts(960, 300, 0, 0.9), "base": BaseFacts()}, set()),
        ({"base": BaseFacts((), "Q4_1")}, {"rounded_base"}),
        ({"hours": 3.0}, {"pilot"}),
    ],
)
def test_cautions_at_their_edges(change: dict[str, object], expected: set[str]) -> None:
    found = cautions(replace(CALM, **change))  # type: ignore[arg-type]
    assert rules_of(found) == expected
    for each in found:
        assert "{" not in "".join(each.words().values())


def test_every_caution_has_words() -> None:
    names = {each.name for each in CAUTIONS}
    loud = Circumstances(
        TrainSpec(epochs=9.0, max_length=4096), RowFacts(90, 30, 50, 0.5), BaseFacts(("en",), "Q4_1"), 9.0
    )
    assert rules_of(cautions(loud)) == names


@pytest.mark.parametrize(("texts", "share"), [([], 0.0), (["订单 48213"], 2 / 7), (["你好", "ab"], 0.5)])
def test_share_of_chinese(texts: list[str], share: float) -> None:
    assert chinese_share(texts) == pytest.approx(share)
