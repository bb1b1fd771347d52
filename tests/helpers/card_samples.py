"""A release card's facts as a real run would give them, for tests and for looking at the page."""

from __future__ import annotations

import math

from tunesmith.evaluate.card_facts import (
    ArtefactFacts,
    CardFacts,
    CutFacts,
    DataFacts,
    ExampleRow,
    GoalFacts,
    MetricLine,
    ParityCheck,
    SourceFacts,
    SpeedLine,
    TrainingFacts,
)
from tunesmith.evaluate.cost import cost
from tunesmith.evaluate.intervals import Interval, wilson
from tunesmith.evaluate.loss_plot import LossCurve
from tunesmith.evaluate.speed import Speed
from tunesmith.evaluate.support_rate import support_rate, votes_by_metric


def sample_curve(steps: int = 180) -> LossCurve:
    train = tuple(
        (step, 0.06 + 2.4 * math.exp(-step / 22) + 0.05 * math.sin(step * 1.7) ** 2 + 0.03 * math.cos(step * 5.1) ** 2)
        for step in range(1, steps + 1)
    )
    validation = tuple((step, 0.1 + 2.2 * math.exp(-step / 24)) for step in range(20, steps + 1, 20))
    return LossCurve(train, validation, best_step=160)


def sample_artefact(name: str, size: int, top1: str, passed: bool = True) -> ArtefactFacts:
    return ArtefactFacts(
        name,
        size,
        (
            ParityCheck({"en": "Token ids of 50 chats", "zh": "50 段对话的词元编号"}, "50 / 50", "50 / 50", True),
            ParityCheck({"en": "Same most likely token", "zh": "最可能词元一致"}, top1, "≥ 98 %", passed),
            ParityCheck({"en": "Change of the metric", "zh": "指标变化"}, "0.5", "≤ 1.0", True),
        ),
    )


def sample_facts() -> CardFacts:
    """A run that may be released: 240 test rows, 93.8 % against 24.6 %."""
    new = [1.0] * 225 + [0.0] * 15
    old = [0.0] * 181 + [1.0] * 59
    return CardFacts(
        name="helpdesk-json",
        created="2026-11-22 10:42",
        run="helpdesk-json/20261122-103011-5f2c1a9e",
        goal=GoalFacts(
            problem="Turn a customer's message into the JSON that our ticket system reads, so that nobody types it.",
            need=("format", "domain"),
            business_metric="first-contact resolution",
            target_metric="json_exact",
            target_at_least=0.85,
        ),
        test_rows=240,
        metrics=(
            MetricLine("json_exact", 0.0, 0.246, 0.938, wilson(0.938, 240), Interval(0.692, 0.629, 0.75)),
            MetricLine("json_valid", 0.413, 0.9, 1.0, wilson(1.0, 240), Interval(0.1, 0.063, 0.142)),
            MetricLine("rouge_l", 0.352, 0.74, 0.981, None, Interval(0.241, 0.21, 0.27)),
            MetricLine("bleu_4", 0.11, 0.52, 0.963),
        ),
        support=support_rate(votes_by_metric(new, old)),
        training=TrainingFacts(
            base="SmolLM2-135M-Instruct",
            base_licence="Apache-2.0",
            base_quantization="Q4_1 GGUF",
            method="LoRA, rank 16, all linear layers; supervised",
            trained_parameters=4_884_480,
            total_parameters=139_399_488,
            epochs=3,
            steps=180,
            best_step=160,
            seconds=252,
            tokens_per_second=742,
            device="CPU, 2 cores",
            dtype="bfloat16",
            useful_utilisation=0.41,
            kernel_efficiency=0.43,
            waste=1.05,
            cut=CutFacts(8, 2048, 4096),
            losses=sample_curve(),
        ),
        data=DataFacts(
            sources=(SourceFacts("tickets.jsonl", 1680, "CC0-1.0"),),
            fates={"kept": 1662, "merged: exact duplicate": 14, "dropped: empty answer": 4},
            splits={"train": 1164, "validation": 249, "test": 249},
            ledger_balanced=True,
            leaks=0,
        ),
        artefacts=(
            sample_artefact("safetensors", 269_060_552, "100 %"),
            sample_artefact("gguf-q8_0", 144_811_104, "99.2 %"),
        ),
        same_bytes=True,
        frozen_unchanged=True,
        speeds=(
            SpeedLine({"en": "Base", "zh": "基座"}, Speed(240, 1.9, 2.45, 61)),
            SpeedLine({"en": "Tuned", "zh": "微调后"}, Speed(240, 0.84, 1.2, 64)),
        ),
        cost=cost({"train": 252, "evaluate": 190, "ship": 64}, machine_cost_per_hour=0.4),
        examples=(
            ExampleRow(
                "hi, order 48213 - the kettle arrived with a cracked lid, need a new one before friday!!",
                '{"intent": "replacement", "product": "kettle", "urgency": "high", "order": 48213}',
                "I'm sorry to hear that your kettle arrived with a cracked lid. I'd be happy to help you with",
                '{"intent": "replacement", "product": "kettle", "urgency": "high", "order": 48213}',
            ),
            ExampleRow(
                "Wher can I see my bill for the toaster? no rush",
                '{"intent": "invoice", "product": "toaster", "urgency": "low", "order": null}',
                '{"intent": "bill", "product": "toaster"}',
                '{"intent": "invoice", "product": "toaster", "urgency": "low", "order": null}',
            ),
        ),
        examples_allowed=True,
        not_measured=("safety", "human_evaluation", "forgetting", "business_metric"),
        versions={"tunesmith": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.0"},
        hashes={
            "recipe": "5f2c1a9e0d6b4b7d8f3c2a1e9b8d7c6f5e4d3c2b1a09f8e7d6c5b4a39281706f",
            "safetensors": "0d6b4b7d8f3c2a1e9b8d7c6f5e4d3c2b1a09f8e7d6c5b4a39281706f5f2c1a9e",
        },
    )
