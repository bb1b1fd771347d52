"""`tunesmith doctor`: is this machine ready, and what mends what is not. `--offline RECIPE` looks at a run's files,
`--calibrate` measures this machine's speed."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import typer

from tunesmith.cli.calibrate import calibrate as measure_and_keep
from tunesmith.cli.failures import USER_ERROR
from tunesmith.cli.manner import answer, tell
from tunesmith.core.calibration import cpu_place, flops_words
from tunesmith.core.calibration import find as find_calibration
from tunesmith.core.errors import TunesmithError
from tunesmith.core.process import available_cores
from tunesmith.messages import render, say
from tunesmith.models.catalog import KNOWN, KnownModel, bundled_file, cache_folder, find
from tunesmith.recipe.load import load_recipe
from tunesmith.recipe.places import local_path
from tunesmith.recipe.specs.serve import ServeSpec

State = Literal["good", "warning", "bad"]
SIGNS: dict[State, tuple[str, str]] = {"good": ("✓", "green"), "warning": ("!", "yellow"), "bad": ("✗", "red")}
LEAST_MEMORY_GB, LEAST_DISK_GB = 4, 5
NEEDED = ("torch", "transformers", "peft", "polars", "fastapi")
JUDGE = "pip install 'tunesmith[gguf-judge]'"
CALIBRATE = "tunesmith doctor --calibrate"

OfflineOption = Annotated[
    Path | None, typer.Option("--offline", metavar="RECIPE", help="cli.opt_offline", show_default=False)
]
CalibrateOption = Annotated[bool, typer.Option("--calibrate", help="cli.opt_calibrate")]


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what it is, how it stands, and what mends it (empty when nothing needs to be)."""

    name: str
    state: State
    detail: str
    mend: str = ""


def doctor(offline: OfflineOption = None, calibrate: CalibrateOption = False) -> None:
    """Look at the machine, or at every file that a recipe needs; exit code 2 when something is missing."""
    if calibrate:
        measure_and_keep()
        return
    findings = list(_files_of(offline) if offline is not None else _machine())
    for each in findings:
        sign, style = SIGNS[each.state]
        tell(f"{sign} {each.name}: {each.detail}", style if each.state != "good" else "")
        if each.mend:
            tell(f"    {say('cli.next_step')}{each.mend}")
    bad = any(each.state == "bad" for each in findings)
    tell()
    tell(say("cli.doctor_bad" if bad else "cli.doctor_good"), "bold")
    answer({"ready": not bad, "findings": [asdict(each) for each in findings]})
    if bad:
        raise typer.Exit(USER_ERROR)


# ------------------------------------------------------------------------------------------- the machine


def _machine() -> Iterator[Finding]:
    yield _python()
    yield from (_package(name) for name in NEEDED)
    yield _accelerator()
    yield Finding(say("cli.doctor_cores"), "good", str(available_cores()))
    yield _calibration()
    yield _memory()
    yield _disk()
    yield from (_bundled_model(each) for each in KNOWN if each.bundle is not None)
    yield _judge()
    yield _writable(cache_folder())
    yield _writable(Path.cwd())
    yield _port(ServeSpec().port)


def _python() -> Finding:
    good = (3, 11) <= sys.version_info[:2] < (3, 15)
    return Finding("Python", "good" if good else "bad", platform.python_version(), "" if good else "Python 3.11-3.14")


def _package(name: str) -> Finding:
    try:
        return Finding(name, "good", version(name))
    except PackageNotFoundError:
        return Finding(name, "bad", say("cli.not_installed"), "pip install tunesmith")


def _accelerator() -> Finding:
    from tunesmith.cli.work import ready

    ready()
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", "bad", str(error)[:200], "pip install --force-reinstall torch")
    if torch.cuda.is_available():
        return Finding(say("cli.doctor_device"), "good", torch.cuda.get_device_name(0))
    if torch.backends.mps.is_available():
        return Finding(say("cli.doctor_device"), "good", "MPS")
    return Finding(say("cli.doctor_device"), "good", say("cli.doctor_cpu", threads=torch.get_num_threads()))


def _calibration() -> Finding:
    """The kept figures of the CPU, where they still fit."""
    name, place = say("cli.doctor_calibration"), cpu_place(available_cores())
    found = {dtype: find_calibration(cache_folder(), place, dtype) for dtype in ("bfloat16", "float32")}
    differences = dict.fromkeys(each for one in found.values() for each in one.differences)
    if differences:
        return Finding(name, "warning", "; ".join(differences), CALIBRATE)
    made = {dtype: one.calibration for dtype, one in found.items() if one.calibration is not None}
    if not made:
        return Finding(name, "good", say("cli.doctor_not_calibrated"))
    return Finding(name, "good", ", ".join(f"{flops_words(each.peak)} {dtype}" for dtype, each in made.items()))


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    few = free < LEAST_MEMORY_GB
    mend = say("cli.doctor_memory_mend") if few else ""
    return Finding(say("cli.doctor_memory"), "warning" if few else "good", f"{free:.1f} GiB", mend)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    few = free < LEAST_DISK_GB
    mend = "tunesmith runs prune" if few else ""
    return Finding(say("cli.doctor_disk"), "warning" if few else "good", f"{free:.1f} GiB", mend)


def _bundled_model(model: KnownModel) -> Finding:
    try:
        return Finding(model.name, "good", str(bundled_file(model)))
    except TunesmithError as error:
        words = render(error)
        return Finding(model.name, "warning", words.cause, words.next_step)


def _judge() -> Finding:
    try:
        return Finding(say("cli.doctor_judge"), "good", f"xllamacpp {version('xllamacpp')}")
    except PackageNotFoundError:
        return Finding(say("cli.doctor_judge"), "warning", say("cli.doctor_no_judge"), JUDGE)


def _writable(folder: Path) -> Finding:
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if os.access(there, os.W_OK):
        return Finding(say("cli.doctor_write"), "good", str(folder))
    words = render(TunesmithError("core.not_writable", path=str(folder), reason=os.strerror(13)))
    return Finding(say("cli.doctor_write"), "bad", words.cause, words.next_step)


def _port(port: int) -> Finding:
    with socket.socket() as trial:
        taken = trial.connect_ex(("127.0.0.1", port)) == 0
    name = say("cli.doctor_port")
    if taken:
        return Finding(name, "warning", say("cli.doctor_port_taken", port=port), "tunesmith serve RUN --port 0")
    return Finding(name, "good", str(port))


# ------------------------------------------------------------------------------------------ a run's files


def _files_of(recipe_path: Path) -> Iterator[Finding]:
    recipe = load_recipe(recipe_path)
    yield Finding(say("cli.doctor_recipe"), "good", str(recipe_path))
    data = recipe.data
    beside = [source for sources in recipe.sources_beside.values() for source in sources]
    for source in [*data.sources, *data.validation_sources, *data.test_sources, *beside]:
        yield _file(say("cli.doctor_rows"), local_path(source, recipe_path.resolve().parent))
    yield _base(recipe.model.base, recipe.model.revision)
    if any(each.startswith("gguf") for each in recipe.formats):
        found = _judge()
        yield found if found.state == "good" else Finding(found.name, "bad", found.detail, found.mend)
    yield _writable(Path.cwd())


def _file(name: str, path: Path) -> Finding:
    if path.exists():
        return Finding(name, "good", str(path))
    words = render(TunesmithError("core.missing_file", path=str(path)))
    return Finding(name, "bad", words.cause, words.next_step)


def _base(base: str, revision: str | None) -> Finding:
    """Whether the base is on this machine. A bundled one is only looked for: converting it is the run's work."""
    name = say("cli.doctor_base")
    known = find(base)
    try:
        if known is not None and known.bundle is not None and base.lower() == known.name:
            return Finding(name, "good", str(bundled_file(known)))
        from tunesmith.cli.work import ready

        ready()
        from tunesmith.models.load import resolve_base

        return Finding(name, "good", str(resolve_base(base, revision=revision, offline=True).path))
    except TunesmithError as error:
        words = render(error)
        return Finding(name, "bad", words.cause, words.next_step)
