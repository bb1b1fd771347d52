"""U, E and W: against figures made by hand, torch's own counter and the formulas of the forecast."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fits import local, make_job
from torch.utils.flop_counter import FlopCounterMode

from tunesmith.core.calibration import Calibration, Product, keep
from tunesmith.core.events import Event, Events
from tunesmith.models.attention import KEPT_UP_TO, QUERIES_AT_ONCE
from tunesmith.models.packed import Features, pack
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.plan.sizes import beginning_flops, flops_per_token, size_from_config
from tunesmith.recipe.specs.adapt import AdaptSpec, FullSpec, LoraSpec, SubsetSpec
from tunesmith.recipe.specs.beginnings import PrefixSpec, PromptSpec, PTuningSpec
from tunesmith.runtime import peak as peak_module
from tunesmith.runtime.peak import Peak, measure, place_of, run_peak
from tunesmith.train.efficiency import Meter, Work, efficiency_facts
from tunesmith.train.loop import Job, fit


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "base", spread=0.1, context=2048)


def row(length: int, learned: int, first: int = 0, number: int = 0) -> Features:
    """A row whose last `learned` tokens carry loss; rows of the same `first` begin alike."""
    ids = tuple((first + place) % 60 + 3 for place in range(length))
    return Features(number, ids, (0.0,) * (length - learned) + (1.0,) * learned)


# ------------------------------------------------------------------------------------------ by hand


METER = Meter(frozen=1000, trained=10, head=500, head_trains=False, attention_width=8)


def test_one_document_by_hand() -> None:
    work = METER.of_batch(pack([row(100, 30)]))
    blocks, head = 100 * (4 * 1000 + 6 * 10), 30 * 4 * 500
    square = 100 * 100
    # six products of attention, 2 FLOPs a pair and width: half of the square is needed, all of it is computed
    assert work.needed == blocks + head + 6 * 2 * 8 * square / 2
    assert work.executed == blocks + head + 6 * 2 * 8 * square
    assert (work.tokens, work.shared) == (100, 0)


def test_a_head_that_trains_makes_its_logits_twice() -> None:
    batch = pack([row(100, 30)])
    moving = replace(METER, head_trains=True).of_batch(batch)
    assert moving.needed - METER.of_batch(batch).needed == 30 * 2 * 500
    assert moving.executed - METER.of_batch(batch).executed == 30 * 4 * 500


def test_activations_computed_again_are_waste() -> None:
    batch = pack([row(100, 30)])
    again = replace(METER, again=True).of_batch(batch)
    assert again.needed == METER.of_batch(batch).needed
    assert again.executed - METER.of_batch(batch).executed == 100 * 2 * 1010 + 2 * 2 * 8 * 100 * 100


def test_long_documents_leave_out_blocks_and_make_shares_again() -> None:
    blocks = KEPT_UP_TO // QUERIES_AT_ONCE + 1
    length = blocks * QUERIES_AT_ONCE + 100
    assert length > KEPT_UP_TO
    work = METER.of_batch(pack([row(length, 10)]))
    pairs = sum(QUERIES_AT_ONCE * each * QUERIES_AT_ONCE for each in range(1, blocks + 1)) + 100 * length
    assert work.executed == length * 4060 + 10 * 2000 + 2 * 8 * pairs * (2 + 5)


def test_a_librarys_kernel_computes_half_the_square_and_makes_its_shares_again() -> None:
    kernel = replace(METER, plain_attention=False).of_batch(pack([row(100, 30)]))
    assert kernel.executed == 100 * 4060 + 30 * 2000 + 2 * 8 * 100 * 100 / 2 * (2 + 5)


def test_rows_that_begin_alike_are_counted_as_they_stand_in_the_batch() -> None:
    rows = [replace(row(80, 10, number=place), token_ids=(*range(60), *([place] * 20))) for place in range(3)]
    batch = pack(rows)
    work = METER.of_batch(batch)
    assert batch.num_tokens == 60 + 3 * 20
    assert (work.tokens, work.shared) == (120, 2 * 60)
    blocks, head = 120 * 4060, 30 * 2000
    assert work.needed == blocks + head + 12 * 8 * (60 * 60 / 2 + 3 * (20 * 60 + 20 * 20 / 2))
    assert work.executed == blocks + head + 12 * 8 * (64 * 64 + 2 * 32 * (60 + 32) + 20 * 80)  # rounded up


def test_a_row_repeated_without_weight_is_waste() -> None:
    nothing = METER.of_batch(pack([row(50, 0)]))
    assert nothing.needed == 0 and nothing.executed > 0
    both = METER.of_batches([pack([row(100, 30)]), pack([row(50, 0)])])
    assert both.executed == METER.of_batch(pack([row(100, 30)])).executed + nothing.executed
    assert both.tokens == 150


def test_the_three_figures() -> None:
    facts = efficiency_facts(Work(1000, 8e9, 1e10, 0), 2.0, Peak(1e10, "bfloat16", True))
    assert facts["useful_utilisation"] == 0.4
    assert facts["kernel_efficiency"] == 0.5
    assert facts["waste"] == 1.25
    assert facts["tokens_per_second"] == 500
    assert efficiency_facts(Work(), 0.0, Peak(1e10, "bfloat16", True)) == {}


# ------------------------------------------------------------------------------------------ against others


@pytest.mark.parametrize(
    "adapt",
    [
        LoraSpec(rank=4),
        LoraSpec(rank=4, target_modules="attention"),
        LoraSpec(rank=4, first_layer=-1),
        FullSpec(),
        SubsetSpec(first_layer=-1),
        SubsetSpec(parts=["mlp"]),
        SubsetSpec(parts=["head"]),
        SubsetSpec(parts=["norm"], first_layer=1),
        SubsetSpec(parameters=["*.0.*.o_proj.*"]),
        PromptSpec(num_virtual_tokens=16),
        PTuningSpec(num_virtual_tokens=16),
        PTuningSpec(num_virtual_tokens=16, encoder_reparameterization_type="lstm"),
        PrefixSpec(num_virtual_tokens=16),
        PrefixSpec(num_virtual_tokens=16, prefix_projection=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("epochs", [1.0, 2.0])
def test_the_formulas_are_those_of_the_forecast(
    base: Path, tmp_path: Path, adapt: AdaptSpec, again: bool, epochs: float
) -> None:
    job = make_job(base, tmp_path / "fit", local(), adapt=adapt.model_dump(), settings={"epochs": epochs})
    size = size_from_config(json.loads((base / "config.json").read_text("utf-8")))
    batch = pack([row(96, 30), row(40, 10, first=7)])
    seen = (96 * 96 + 40 * 40) / 136
    needed = job.meter(0).of_batch(batch).needed
    told = 136 * flops_per_token(size, adapt, seen, 40 / 136, kept=epochs > 1) + beginning_flops(size, adapt)
    assert needed == pytest.approx(told, rel=1e-12)
    if again:
        meter = replace(job.meter(0), again=True)
        added = meter.of_batch(batch).executed - job.meter(0).of_batch(batch).executed
        told = 136 * (flops_per_token(size, adapt, seen, 0.0, True) - flops_per_token(size, adapt, seen, 0.0))
        told += beginning_flops(size, adapt, True) - beginning_flops(size, adapt)
        adapter = job.meter(0).trained if isinstance(adapt, LoraSpec) else 0
        flowing_back = meter.attention_width - meter.attention_read
        dense = 2 * (136 * seen + meter.virtual**2) * flowing_back  # the other half of the squares
        late = (96 + meter.virtual) * 2 * (meter.kept_frozen + meter.kept_trained)  # tokens that carry no loss
        assert late > 0
        assert added == pytest.approx(told + dense + 136 * 2 * adapter - late, rel=1e-12)


@pytest.mark.parametrize("kind", ["lora", "full", "prompt", "p-tuning", "prefix"])
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("lengths", [(60, 90), (700, 30)])
def test_what_is_executed_is_what_torch_counts(
    base: Path, tmp_path: Path, kind: str, again: bool, lengths: tuple[int, int]
) -> None:
    job = make_job(base, tmp_path / "fit", local(), adapt={"kind": kind}, settings={"gradient_checkpointing": again})
    batch = pack([row(length, 15, first=length) for length in lengths])
    in_place = {torch.ops.aten.baddbmm_: _batched, torch.ops.aten.addmm_: _added}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        torch.stack(list(job.objective.loss(job.policy, batch).values())).sum().backward()
    executed = job.meter(0).of_batch(batch).executed
    # With activations made again the library asks for a gradient of the embedded tokens, and it stops as soon as all
    # that was dropped is there, so that the last product of a block may not be made again.
    left_out = 0 if kind in ("full", "prompt", "p-tuning") or again else batch.num_tokens * 2 * _first_block_inputs(job)
    counted = counter.get_total_flops()
    assert counted <= (executed - left_out) * (1 + 1e-12)
    assert counted >= (executed - left_out) * (0.95 if again else 1 - 1e-12)


def _batched(_: object, left: tuple[int, ...], right: tuple[int, ...], *__: object, **___: object) -> int:
    return 2 * left[0] * left[1] * left[2] * right[2]


def _added(_: object, left: tuple[int, ...], right: tuple[int, ...], *__: object, **___: object) -> int:
    return 2 * left[0] * left[1] * right[1]


def _first_block_inputs(job: Job) -> int:
    """Numbers of the first block's matrices whose input needs no gradient: query, key, value and additions to them."""
    names = [f"layers.0.self_attn.{name}_proj" for name in "qkv"]
    return sum(
        parameter.numel()
        for name, parameter in job.policy.named_parameters()
        if any(each in name for each in names) and parameter.ndim == 2 and "lora_B" not in name
    )


# ------------------------------------------------------------------------------------------ in a fit


def test_a_fit_that_was_resumed_has_counted_what_the_unbroken_one_has(base: Path, tmp_path: Path) -> None:
    whole = fit(make_job(base, tmp_path / "whole", local())).progress
    fit(make_job(base, tmp_path / "parts", local()), until=5)
    resumed = fit(make_job(base, tmp_path / "parts", local())).progress
    assert whole.work == resumed.work
    assert min(whole.work.executed, whole.work.needed) > 0
    assert whole.step == resumed.step == 12


def test_the_tally_is_that_of_the_batches(base: Path, tmp_path: Path) -> None:
    job = make_job(base, tmp_path / "fit", local(), rows=10)
    progress = fit(job).progress
    batches = [pack(job.source.window(step)) for step in range(6)]
    assert progress.work == pytest.approx(job.meter(0).of_batches(batches))
    state = json.loads(next((tmp_path / "fit").glob("checkpoint-6/state.json")).read_text("utf-8"))
    assert state["progress"]["needed_flops"] == progress.needed_flops


# ------------------------------------------------------------------------------------------ the peak


CPU = torch.device("cpu")


def test_a_product_is_timed_and_its_flops_are_told() -> None:
    torch.set_num_threads(1)
    made = measure(CPU, torch.float32, ((8, 16, 32), (64, 64, 64)), seconds=5.0)
    assert [(each.rows, each.inputs, each.outputs) for each in made.products] == [(8, 16, 32), (64, 64, 64)]
    assert made.peak == max(each.flops_per_second for each in made.products) > 0
    assert made.place == place_of(CPU) and made.place.threads == 1 and made.dtype == "float32"
    first = measure(CPU, torch.float32, ((8, 16, 32), (64, 64, 64)), seconds=0.0)
    assert len(first.products) == 1, "no shape is begun after the time is up"


def test_a_measurement_draws_no_numbers_of_the_training() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    measure(CPU, torch.float32, ((8, 16, 32),), seconds=0.0)
    assert torch.equal(torch.rand(4), wanted)


def test_a_run_takes_the_calibration_or_measures_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    monkeypatch.setattr(peak_module, "SHORT_SHAPES", ((8, 16, 32),))
    runtime = local()
    seen: list[Event] = []
    events = Events(None, (seen.append,))

    def told() -> list[str]:
        codes = [str(event.values["code"]) for event in seen]
        seen.clear()
        return codes

    measured = run_peak(runtime, torch.float32, events)
    assert not measured.calibrated and measured.flops_per_second > 0
    assert told() == ["runtime.peak_measured"]
    assert list(tmp_path.iterdir()) == [], "a short measurement is not kept"

    place = place_of(CPU)
    keep(tmp_path, [Calibration(place, "float32", (Product(1, 1, 1, 5e9), Product(2, 2, 2, 7e9)))])
    assert run_peak(runtime, torch.float32, events) == Peak(7e9, "float32", True)
    assert told() == []
    assert not run_peak(runtime, torch.bfloat16, events).calibrated, "another number format"
    assert told() == ["runtime.peak_measured"]

    keep(tmp_path, [Calibration(replace(place, torch="1.0"), "float32", (Product(1, 1, 1, 5e9),))])
    assert not run_peak(runtime, torch.float32, events).calibrated
    stale = next(event for event in seen if event.values["code"] == "runtime.calibration_stale")
    assert stale.values["differences"] == f"torch: 1.0 -> {place.torch}"
