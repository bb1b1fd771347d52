"""The forecast against counts done another way, and a record that teaches and survives damage."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from tunesmith.core.calibration import Calibration, Product, cpu_place, keep
from tunesmith.core.errors import TunesmithError
from tunesmith.models import linear_loss
from tunesmith.models.packed import SHARED_AT_LEAST, Features, pack
from tunesmith.plan import make, sizes
from tunesmith.plan.forecast import (
    ASSUMED_UTILISATION,
    Machine,
    ProbeResult,
    Workload,
    forecast,
    load_records,
    record,
    records_path,
    with_room,
    workload,
)
from tunesmith.plan.machine import cpu_peak
from tunesmith.plan.make import common_beginning
from tunesmith.plan.sizes import ModelSize
from tunesmith.recipe.specs.adapt import FullSpec, LoraSpec
from tunesmith.recipe.specs.train import TrainSpec
from tunesmith.train.batching import Source, micro_batches

SMOL = ModelSize(30, 576, 576, 192, 1536, 49_152, True)
MACHINE = Machine("cpu", "bfloat16", 600e9, 20 * 2**30, cost_per_hour=0.4)
TRAIN = TrainSpec(epochs=2.0, batch_size=8)
LOAD = workload([100] * 80, 2_400, 1_600, TRAIN)


def test_seconds_are_the_work_over_the_rate() -> None:
    # 4 N + 4 H f + 6 P + 3 a, by hand: 106.17M, 28.31M, f = 0.3, 4.88M, a = 2 x 100 x 576 x 30
    token = 4 * 106_168_320 + 4 * 28_311_552 * 0.3 + 6 * 4_884_480 + 3 * 2 * 100 * 576 * 30
    found = forecast(SMOL, LoraSpec(), TRAIN, LOAD, MACHINE)
    assert found.steps == 20 and found.tokens == 16_000
    assert found.step_seconds == pytest.approx(16_000 * token / (600e9 * ASSUMED_UTILISATION), rel=1e-6)
    assert found.seconds.low < found.seconds.value < found.seconds.high
    assert found.seconds.value > found.step_seconds, "validation comes on top"
    assert found.hours == pytest.approx(found.seconds.value / 3600)
    assert found.money == pytest.approx(0.4 * found.hours)
    assert forecast(SMOL, LoraSpec(), TRAIN, LOAD, replace(MACHINE, cost_per_hour=0.0)).money is None


def test_what_costs_more_is_forecast_to_cost_more() -> None:
    base = forecast(SMOL, LoraSpec(), TRAIN, LOAD, MACHINE)
    full = forecast(SMOL, FullSpec(), TRAIN, LOAD, MACHINE)
    saving = forecast(SMOL, LoraSpec(), TrainSpec(epochs=2.0, gradient_checkpointing=True), LOAD, MACHINE)
    assert full.step_seconds > base.step_seconds and full.peak_bytes.value > base.peak_bytes.value + 2e9
    assert saving.step_seconds > base.step_seconds and saving.peak_bytes.value < base.peak_bytes.value
    assert forecast(SMOL, LoraSpec(), TrainSpec(epochs=2.0, max_steps=5), LOAD, MACHINE).steps == 5


def test_a_probe_takes_the_place_of_the_formula() -> None:
    found = forecast(SMOL, LoraSpec(), TRAIN, LOAD, MACHINE, ProbeResult(0.004, 3_000_000_000))
    assert found.basis == "probe"
    assert found.step_seconds == pytest.approx(0.004 * 16_000)
    assert found.peak_bytes.value == 3_000_000_000 + 8 * 4_884_480
    blind = forecast(SMOL, LoraSpec(), TRAIN, LOAD, MACHINE, ProbeResult(0.004, None))
    assert blind.peak_bytes.value == forecast(SMOL, LoraSpec(), TRAIN, LOAD, MACHINE).peak_bytes.value


def test_tokens_are_those_that_packing_computes() -> None:
    assert make._SHARED_AT_LEAST == SHARED_AT_LEAST and sizes._LOGITS_AT_ONCE == linear_loss.CHUNK
    beginning = tuple(range(20))
    rows = [beginning + tuple(50 + (7 * row + place) % 30 for place in range(5 + row)) for row in range(11)]
    features = [Features(number, ids, (0.0,) * 20 + (1.0,) * (len(ids) - 20)) for number, ids in enumerate(rows)]
    train = TrainSpec(batch_size=4)
    load = workload([len(ids) for ids in rows], 0, 0, train, common_beginning(features))
    source = Source(features, train.batch_size, seed=1)
    windows = [source.window(step) for step in range(source.windows_per_epoch)]
    batches = [pack(batch) for window in windows for batch in micro_batches(window, train.batch_size, 0, 1)]
    assert load.tokens == sum(batch.num_tokens for batch in batches)
    assert load.tokens_at_once >= max(batch.num_tokens for batch in batches)


@pytest.mark.parametrize(
    ("rows", "learned_from", "common"),
    [
        ([], 0, 0),
        ([[1] * 40], 40, 0),
        ([[1] * 40, [1] * 30 + [2]], 40, 30),
        ([[1] * 40, [1] * 40], 30, 29),
        ([[1] * 40, [1] * 40], 16, 0),
        ([[1] * 15 + [2], [1] * 15 + [3]], 16, 0),
    ],
)
def test_common_beginning(rows: list[list[int]], learned_from: int, common: int) -> None:
    def row(ids: list[int]) -> Features:
        return Features(0, tuple(ids), tuple(float(place >= learned_from) for place in range(len(ids))))

    assert common_beginning([row(ids) for ids in rows]) == common


def test_rows_one_at_a_time_share_nothing() -> None:
    load = workload([30, 40], 10, 0, TrainSpec(packing=False), shared=20)
    assert (load.tokens, load.tokens_at_once) == (70, 40)


def test_auto_is_planned_as_it_will_begin() -> None:
    auto = TrainSpec(batch_size="auto", epochs=2.0)
    lengths = [1000] * 40 + [3000]
    load = workload(lengths, 9_000, 0, auto)
    assert load.tokens_at_once == 4000, "8 and 4 of the longest rows are too many tokens at once, 2 are not"
    assert workload([100] * 40, 900, 0, auto) == workload([100] * 40, 900, 0, TrainSpec())
    accelerated = workload(lengths, 9_000, 0, auto, device="cuda")
    assert accelerated.tokens_at_once == 3000 + 7 * 1000
    plenty = with_room(load, SMOL, LoraSpec(), auto, MACHINE, max(lengths))
    found = forecast(SMOL, LoraSpec(), auto, plenty, MACHINE)
    assert (found.steps, found.rows_per_step, found.tokens_at_once) == (12, 8, 4000)
    tight = replace(MACHINE, memory_bytes=3 * 10**9)
    small = with_room(load, SMOL, LoraSpec(), auto, tight, 1000)
    assert small.tokens_at_once == 1000
    assert with_room(load, SMOL, LoraSpec(), auto, replace(tight, memory_bytes=1), 3000).tokens_at_once == 3000
    assert with_room(load, SMOL, LoraSpec(), TrainSpec(), tight, 1000) == load, "a stated number stays"
    assert forecast(SMOL, LoraSpec(), TrainSpec(), load, MACHINE).tokens_at_once is None


def test_no_rows_are_no_tokens() -> None:
    assert workload([], 0, 0, TRAIN) == Workload(0, 0, 0.0, 0.0, 0)


# --------------------------------------------------------------------------------------------- record


def test_the_record_corrects_by_the_median_and_never_piles_up(tmp_path: Path) -> None:
    plain = forecast(SMOL, LoraSpec(), TRAIN, LOAD, MACHINE)
    for factor in (2.0, 3.0, 50.0):
        told = forecast(SMOL, LoraSpec(), TRAIN, LOAD, MACHINE, records=load_records(tmp_path))
        record(told, factor * plain.uncorrected_seconds, factor * plain.uncorrected_bytes, tmp_path)
    found = forecast(SMOL, LoraSpec(), TRAIN, LOAD, MACHINE, records=load_records(tmp_path))
    assert found.records == 3
    assert found.step_seconds == pytest.approx(3 * plain.step_seconds)
    assert found.peak_bytes.value == pytest.approx(3 * plain.peak_bytes.value)
    assert found.seconds.high / found.seconds.value == pytest.approx(50 / 3)
    other = forecast(SMOL, FullSpec(), TRAIN, LOAD, MACHINE, records=load_records(tmp_path))
    assert other.records == 0, "another method learns nothing from it"
    probed = forecast(SMOL, LoraSpec(), TRAIN, LOAD, MACHINE, ProbeResult(1e-3), load_records(tmp_path))
    assert probed.records == 0, "nor does a forecast on another basis"


def test_memory_that_nobody_could_tell_corrects_time_alone(tmp_path: Path) -> None:
    plain = forecast(SMOL, LoraSpec(), TRAIN, LOAD, MACHINE)
    record(plain, 2 * plain.uncorrected_seconds, None, tmp_path)
    found = forecast(SMOL, LoraSpec(), TRAIN, LOAD, MACHINE, records=load_records(tmp_path))
    assert found.step_seconds == pytest.approx(2 * plain.step_seconds)
    assert found.peak_bytes.value == plain.peak_bytes.value


def test_a_broken_line_costs_itself_alone(tmp_path: Path) -> None:
    plain = forecast(SMOL, LoraSpec(), TRAIN, LOAD, MACHINE)
    record(plain, 5.0, 5.0, tmp_path)
    path = records_path(tmp_path)
    with path.open("ab") as stream:
        stream.write(b'{"kind": "cut by a cra')
    record(plain, 7.0, 7.0, tmp_path)
    assert [each.actual_seconds for each in load_records(tmp_path)] == [5.0, 7.0]


@pytest.mark.parametrize("odd", ["[]", "3", '"x"', "{}", "null", "\x00", '{"kind": 3}'])
def test_lines_that_are_no_record_are_passed_over(tmp_path: Path, odd: str) -> None:
    records_path(tmp_path).write_text(odd + "\n", "utf-8")
    assert load_records(tmp_path) == []


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_impossible_times_teach_nothing(tmp_path: Path, seconds: float) -> None:
    record(forecast(SMOL, LoraSpec(), TRAIN, LOAD, MACHINE), seconds, None, tmp_path)
    assert load_records(tmp_path) == []


def test_wrong_types_teach_nothing(tmp_path: Path) -> None:
    record(forecast(SMOL, LoraSpec(), TRAIN, LOAD, MACHINE), 5.0, None, tmp_path)
    path = records_path(tmp_path)
    entry = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**entry, "actual_seconds": "long"}) + "\n", "utf-8")
    assert load_records(tmp_path) == []


def test_a_home_that_takes_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file stands here", "utf-8")
    with pytest.raises(TunesmithError, match=r"core\."):
        record(forecast(SMOL, LoraSpec(), TRAIN, LOAD, MACHINE), 5.0, None, tmp_path / "home")


def test_the_peak_of_the_forecast_is_the_calibrated_one(tmp_path: Path) -> None:
    estimated = cpu_peak("float32", 2, tmp_path)
    assert estimated > 0
    keep(tmp_path, [Calibration(cpu_place(2), "bfloat16", (Product(1, 1, 1, 7.94e11),))])
    assert cpu_peak("bfloat16", 2, tmp_path) == 7.94e11
    assert cpu_peak("bfloat16", 1, tmp_path) != 7.94e11, "other threads"
    keep(tmp_path, [Calibration(replace(cpu_place(2), torch="1.0"), "bfloat16", (Product(1, 1, 1, 1.0),))])
    assert cpu_peak("bfloat16", 2, tmp_path) > 1.0, "stale"
