"""The best matrix product of this machine, measured once by `tunesmith doctor --calibrate` and kept for later runs.

A figure counts only where it was taken: same processor, as many threads, same torch. This file needs no torch.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import read_json, write_json

CALIBRATION = "calibration.json"
_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Place:
    """What a figure belongs to. `threads` are those of the CPU, 0 on an accelerator."""

    device: str
    processor: str
    threads: int
    torch: str

    def differences(self, other: Place) -> tuple[str, ...]:
        """What is not as it was in `other`, as "name: then -> now"."""
        pairs = ((name, getattr(other, name), value) for name, value in asdict(self).items())
        return tuple(f"{name}: {then} -> {now}" for name, then, now in pairs if then != now)


@dataclass(frozen=True)
class Product:
    """One timed product [rows, inputs] x [inputs, outputs] and its best speed in FLOP/s."""

    rows: int
    inputs: int
    outputs: int
    flops_per_second: float


@dataclass(frozen=True)
class Calibration:
    """The products of one number format on one device."""

    place: Place
    dtype: str
    products: tuple[Product, ...]

    @property
    def peak(self) -> float:
        """The best of all products, FLOP/s."""
        return max(each.flops_per_second for each in self.products)


@dataclass(frozen=True)
class Found:
    """A calibration that fits here, or None and what of the nearest one does not fit (empty where there is none)."""

    calibration: Calibration | None
    differences: tuple[str, ...] = ()


def cpu_place(threads: int) -> Place:
    """This machine's CPU with so many threads."""
    return Place("cpu", _cpu_name(), threads, torch_version())


def torch_version() -> str:
    """Version of the installed torch; empty without one."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


def _cpu_name(cpu_info: Path = _CPU_INFO) -> str:
    """The processor by name, and by family and model where the system tells: rented machines hide the name."""
    facts: dict[str, str] = {}
    try:
        for line in cpu_info.read_text("utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    except OSError:
        pass  # not Linux
    name = facts.get("model name") or platform.processor() or platform.machine()
    known = [facts[each] for each in ("cpu family", "model") if each in facts]
    return f"{name} ({'/'.join(known)})" if known else name


def keep(folder: Path, measured: Sequence[Calibration]) -> Path:
    """Write calibrations beside those of other devices, formats and thread counts; equal ones are replaced.

    Errors: core.disk_full, core.not_writable, core.disk_fault.
    """
    new = {_slot(each): each for each in measured}
    rest = [each for each in load(folder) if _slot(each) not in new]
    path = folder / CALIBRATION
    write_json(path, {"calibrations": [asdict(each) for each in [*rest, *new.values()]]})
    return path


def _slot(calibration: Calibration) -> tuple[str, int, str]:
    return calibration.place.device, calibration.place.threads, calibration.dtype


def load(folder: Path) -> list[Calibration]:
    """Every usable calibration of a folder; what was damaged or written by another version is passed over."""
    try:
        listed = read_json(folder / CALIBRATION).get("calibrations")
    except TunesmithError:
        return []
    read = (_calibration(each) for each in (listed if isinstance(listed, list) else []))
    return [each for each in read if each is not None]


def _calibration(value: dict[str, object]) -> Calibration | None:
    try:
        products = tuple(Product(**each) for each in value["products"])  # type: ignore[attr-defined]
        made = Calibration(Place(**value["place"]), str(value["dtype"]), products)  # type: ignore[arg-type]
        return made if 0 < made.peak < float("inf") else None
    except (KeyError, TypeError, ValueError):
        return None


def find(folder: Path, place: Place, dtype: str) -> Found:
    """The calibration of a place and number format, with what does not fit where there is only another one."""
    near = [each for each in load(folder) if (each.place.device, each.dtype) == (place.device, dtype)]
    near.sort(key=lambda each: len(place.differences(each.place)))
    if not near:
        return Found(None)
    differences = place.differences(near[0].place)
    return Found(None, differences) if differences else Found(near[0])


def flops_words(flops_per_second: float) -> str:
    """A speed as people write it: "794 GFLOP/s", "712 TFLOP/s"."""
    wide = flops_per_second >= 1e13
    return f"{flops_per_second / (1e12 if wide else 1e9):,.0f} {'TFLOP/s' if wide else 'GFLOP/s'}"
