"""Counts and forecasts of models with a task head, against the fits that they are of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from class_fits import head_of, make_class_job
from fits import local
from pydantic import TypeAdapter

from tunesmith.models import sites
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder
from tunesmith.plan import sizes
from tunesmith.plan.forecast import Machine, forecast, workload
from tunesmith.plan.sizes import flops_per_token, memory_parts, size_from_config, trained_parameters
from tunesmith.recipe.specs.adapt import AdaptSpec, FullSpec, LoraSpec
from tunesmith.recipe.specs.train import TrainSpec

ADAPTS: dict[str, dict[str, object]] = {
    "lora": {"kind": "lora", "rank": 4},
    "attention of the top": {"kind": "lora", "rank": 2, "target_modules": "attention", "first_layer": -1},
    "dora": {"kind": "lora", "rank": 2, "use_dora": True},
    "full": {"kind": "full"},
    "last block": {"kind": "subset", "first_layer": -1},
    "biases": {"kind": "subset", "parts": ["bias"]},
    "norms and head": {"kind": "subset", "parts": ["norm", "head"]},
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bodies")
    return {"encoder": tiny_encoder(folder / "encoder"), "decoder": tiny_chat_model(folder / "decoder")}


def test_the_plan_knows_the_same_encoders() -> None:
    assert sizes._ENCODERS == sites.ENCODERS


CASES = [
    (body, kind, adapt)
    for body in ("encoder", "decoder")
    for kind in ("text_class", "token_class")
    for adapt in ADAPTS
    if (body, kind, adapt) != ("decoder", "text_class", "biases")  # it has none
]


@pytest.mark.parametrize(("body", "kind", "adapt"), CASES)
def test_what_trains_is_what_the_plan_counts(
    bases: dict[str, Path], body: str, kind: str, adapt: str, tmp_path: Path
) -> None:
    job = make_class_job(bases[body], tmp_path, local(), kind, adapt=ADAPTS[adapt], rows=4)
    config = json.loads((bases[body] / "config.json").read_text("utf-8"))
    size = size_from_config(config, "none", len(head_of(kind).labels), kind == "token_class")
    spec: AdaptSpec = TypeAdapter(AdaptSpec).validate_python(ADAPTS[adapt])
    moving = sum(each.numel() for each in job.policy.parameters() if each.requires_grad)
    assert trained_parameters(size, spec) == moving


MINILM = {
    "model_type": "bert", "num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12,
    "intermediate_size": 1536, "vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2,
}  # fmt: skip
BLOCKS = 6 * (4 * 384 * 384 + 2 * 384 * 1536)


def test_flops_of_an_encoder_by_hand() -> None:
    """Both directions: a token meets all of its document. Scores of 77 classes at one of 20 tokens."""
    size = size_from_config(MINILM, "none", 77)
    assert size.block_parameters == BLOCKS and size.head == 77 * 384
    attention = 4 * 20 * 384 * 6
    full = flops_per_token(size, FullSpec(), 20, 0.05)
    assert full == pytest.approx(6 * BLOCKS + 6 * size.head * 0.05 + 3 * attention)
    lora = flops_per_token(size, LoraSpec(rank=8), 20, 0.05)
    added = 6 * 8 * (4 * 2 * 384 + 2 * (384 + 1536))
    assert lora == pytest.approx(4 * BLOCKS + 6 * added + 4 * size.head * 0.05 + 3 * attention, rel=1e-3)


def test_a_forecast_of_an_encoder() -> None:
    size, train = size_from_config(MINILM, "none", 77), TrainSpec(epochs=4.0, batch_size=16)
    machine = Machine("cpu", "float32", 100e9, 8 * 2**30)
    load = workload([20] * 1600, 1600, 3_200, train)
    full, lora = (forecast(size, adapt, train, load, machine) for adapt in (FullSpec(), LoraSpec(rank=8)))
    assert full.steps == 400 and full.tokens == 128_000
    assert full.trained_parameters == size.parameters == 22_713_216 + 77 * 385
    assert lora.trained_parameters == 6 * 8 * (4 * 2 * 384 + 2 * (384 + 1536)) + 77 * 385
    assert 0.5 < lora.step_seconds / full.step_seconds < 0.8
    assert full.memory_parts["states"] + full.memory_parts["weights"] == 16 * size.parameters


def test_dropout_keeps_no_activations_between_epochs_and_a_mask_for_each_sum(bases: dict[str, Path]) -> None:
    size = size_from_config(json.loads((bases["encoder"] / "config.json").read_text("utf-8")), classes=3)
    top = LoraSpec(rank=2, first_layer=-1)
    costs = {kept: flops_per_token(size.with_dropout(), top, 20.0, 0.1, kept=kept) for kept in (True, False)}
    assert (
        costs[True]
        == costs[False]
        == flops_per_token(size, top, 20.0, 0.1)
        > flops_per_token(size, top, 20.0, 0.1, kept=True)
    )
    plain, masked = (
        memory_parts(each, top, 100, 0.1, "float32")["activations"] for each in (size, size.with_dropout())
    )
    assert masked - plain == 100 * size.layers * 2 * size.hidden * 4
    decoder = size_from_config(json.loads((bases["decoder"] / "config.json").read_text("utf-8")), classes=3)
    assert decoder.with_dropout() == decoder
