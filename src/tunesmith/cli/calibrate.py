"""`tunesmith doctor --calibrate`: this machine's best matrix products, shown and kept for later runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from tunesmith.cli.manner import answer, tell
from tunesmith.cli.work import ready
from tunesmith.core.calibration import Calibration, flops_words, keep
from tunesmith.core.process import available_cores
from tunesmith.messages import say
from tunesmith.models.catalog import cache_folder

SECONDS_ON_CPU, SECONDS_ON_ACCELERATOR = 11.0, 2.5
"""Longest time for the products of one number format: both formats of a CPU and an accelerator take under 30 s."""


def calibrate() -> None:
    """Measure every device and number format, keep the figures, and show them."""
    threads = available_cores()
    ready(threads)
    tell(say("cli.calibrating"))
    measured = _measured(threads)
    path = keep(cache_folder(), measured)
    for each in measured:
        _show(each)
    tell()
    tell(say("cli.calibrated", path=str(path)), "bold")
    answer({"path": str(path), "calibrations": [{**asdict(each), "peak": each.peak} for each in measured]})


def _measured(threads: int) -> Sequence[Calibration]:
    import torch

    from tunesmith.runtime.peak import accelerators, formats_of, measure, shapes_of

    torch.set_num_threads(threads)
    found: list[Calibration] = []
    for device in (torch.device("cpu"), *accelerators()):
        seconds = SECONDS_ON_CPU if device.type == "cpu" else SECONDS_ON_ACCELERATOR
        found += [measure(device, dtype, shapes_of(device), seconds) for dtype in formats_of(device)]
    return found


def _show(calibration: Calibration) -> None:
    place = calibration.place
    threads = [say("cli.calibrated_threads", threads=place.threads)] if place.threads else []
    tell()
    tell(" · ".join([place.processor, *threads, f"torch {place.torch}", calibration.dtype]), "bold")
    for each in calibration.products:
        shape = f"{each.rows:>6} x {each.inputs:>5} x {each.outputs:>5}"
        tell(f"    {shape}   {each.flops_per_second / 1e9:>11,.1f} GFLOP/s")
    tell(f"    {say('cli.calibrated_peak', speed=flops_words(calibration.peak))}")
