"""Kept figures count where they were taken, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tunesmith.core.calibration import (
    CALIBRATION,
    Calibration,
    Place,
    Product,
    cpu_place,
    find,
    flops_words,
    keep,
    load,
)

HERE = Place("cpu", "Processor 1", 2, "2.13.0")
MADE = Calibration(HERE, "bfloat16", (Product(512, 576, 1536, 8e11), Product(512, 1536, 576, 9e11)))


def test_what_was_kept_is_found(tmp_path: Path) -> None:
    assert find(tmp_path, HERE, "bfloat16").calibration is None
    path = keep(tmp_path / "new", [MADE])
    assert path == tmp_path / "new" / CALIBRATION
    found = find(tmp_path / "new", HERE, "bfloat16")
    assert found.calibration == MADE and found.differences == ()
    assert MADE.peak == 9e11


def test_other_formats_devices_and_thread_counts_stay(tmp_path: Path) -> None:
    plain = replace(MADE, dtype="float32")
    single = replace(MADE, place=replace(HERE, threads=1))
    faster = replace(MADE, products=(Product(1, 1, 1, 2e12),))
    keep(tmp_path, [MADE, plain])
    keep(tmp_path, [single])
    keep(tmp_path, [faster])
    assert load(tmp_path) == [plain, single, faster]
    assert find(tmp_path, single.place, "bfloat16").calibration == single


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"torch": "2.12.0"}, "torch: 2.12.0 -> 2.13.0"),
        ({"processor": "Processor 0"}, "processor: Processor 0 -> Processor 1"),
        ({"threads": 8}, "threads: 8 -> 2"),
    ],
)
def test_figures_of_another_place_are_left_out_and_the_reason_told(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    keep(tmp_path, [replace(MADE, place=replace(HERE, **change))])  # type: ignore[arg-type]
    found = find(tmp_path, HERE, "bfloat16")
    assert found.calibration is None and found.differences == (told,)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"calibrations": 3}', '{"calibrations": [3, {}, {"place": 1, "dtype": 2, "products": []}]}',
     '{"calibrations": [{"place": {"device": "cpu"}, "dtype": "float32", "products": []}]}'],
)  # fmt: skip
def test_a_damaged_file_is_no_calibration(tmp_path: Path, text: str) -> None:
    (tmp_path / CALIBRATION).write_text(text, "utf-8")
    assert load(tmp_path) == []
    keep(tmp_path, [MADE])
    assert load(tmp_path) == [MADE]


def test_this_machine_has_a_name() -> None:
    place = cpu_place(3)
    assert place.device == "cpu" and place.threads == 3 and place.processor and place.torch


def test_speeds_in_words() -> None:
    assert flops_words(7.94e11) == "794 GFLOP/s"
    assert flops_words(7.12e14) == "712 TFLOP/s"
