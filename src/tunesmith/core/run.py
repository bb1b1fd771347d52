"""The run directory: one folder holds everything about a run, and its manifest proves it.

    runs/<name>/<time>-<short hash>/
        recipe.yaml recipe.lock.yaml manifest.json ledger.jsonl metrics.jsonl
        data/  <stage>/checkpoint-<step>/  <stage>/best/  evaluate/  ship/  release_card.html release_card.md

Every stage that ends is written into the manifest with its files' hashes, so that the next command knows what is
done and `tunesmith verify` knows what must be there.
"""

from __future__ import annotations

import fcntl
import glob
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import (
    ASIDE,
    MANIFEST,
    disk_errors,
    make_folders,
    new_folder,
    read_manifest,
    remove_rubbish,
    sha256_file,
    write_manifest,
)
from tunesmith.core.lock import lock_file, locks_stay_here
from tunesmith.core.process import available_cores, is_alive

# Files of a run that several rooms read.
LOCK = "recipe.lock.yaml"
METRICS = "metrics.jsonl"
CERTIFICATE = "resume_certificate.json"

_RECORDED_PACKAGES = ("tunesmith", "torch", "transformers", "peft", "tokenizers", "safetensors", "polars")
_OWNER = ".owner"
_STARTING = ".starting"
_LOOKS, _BETWEEN_LOOKS = 100, 0.01


class Run:
    """A run directory that exists. Make one with `create`, find one with `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls,
        root: Path,
        name: str,
        recipe_hash: str,
        facts: Mapping[str, object] | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> Run:
        """Make `root/name/<time>-<short hash>` whole, with these files and a manifest of them.

        Errors: those of `new_folder`.
        """
        stamp = time.strftime("%Y%m%d-%H%M%S")
        path = root / name / f"{stamp}-{recipe_hash[:8]}"
        suffix = 1
        while path.exists():
            suffix += 1
            path = root / name / f"{stamp}-{recipe_hash[:8]}-{suffix}"
        about: dict[str, object] = {
            "name": name,
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "recipe_sha256": recipe_hash,
            "versions": installed_versions(),
            "python": platform.python_version(),
            "machine": {"platform": platform.platform(), "cores": available_cores()},
            "stages": {},
            **(facts or {}),
        }
        if path.parent.is_dir():
            remove_rubbish(path.parent)
        with new_folder(path, 0, **about) as aside:
            for each, content in (files or {}).items():
                (aside / each).write_bytes(content)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Run:
        """The run in `path`. Only reads: another process may be working there. Errors: core.not_a_run."""
        if not (path / MANIFEST).is_file() or not (path / LOCK).is_file():
            raise TunesmithError("core.not_a_run", path=str(path))
        return cls(path)

    def manifest(self) -> dict[str, object]:
        """What the manifest says now. Errors: those of `read_manifest`."""
        return read_manifest(self.path)

    def record_files(self, *paths: Path, **facts: object) -> None:
        """Enter the hashes of files of this run into the manifest, and what is worth knowing of the run."""
        manifest = self.manifest() | facts
        self._enter_files(manifest, paths)
        write_manifest(self.path, manifest)

    def _enter_files(self, manifest: dict[str, object], paths: Iterable[Path]) -> None:
        files = _table(manifest, "files")
        for path in paths:
            files[path.relative_to(self.path).as_posix()] = sha256_file(path)

    @contextmanager
    def replacing(self, *paths: Path) -> Iterator[None]:
        """Files of this run that the block writes, perhaps over older ones; their hashes are entered at the end.

        Until then the manifest says nothing of them, so that a kill in the block leaves no hash of another content.
        """
        manifest = self.manifest()
        files = _table(manifest, "files")
        known = [name for path in paths if (name := path.relative_to(self.path).as_posix()) in files]
        for name in known:
            del files[name]
        if known:
            write_manifest(self.path, manifest)
        yield
        self.record_files(*paths)

    def finish_stage(self, stage: str, *paths: Path, **facts: object) -> None:
        """Mark a stage done, with the hashes of its files and what is worth knowing of it."""
        manifest = self.manifest()
        self._enter_files(manifest, paths)
        _table(manifest, "stages")[stage] = {
            "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **facts,
        }
        write_manifest(self.path, manifest)

    def stage(self, stage: str) -> Mapping[str, object] | None:
        """Facts of a finished stage; None when it is not finished."""
        facts = _table(self.manifest(), "stages").get(stage)
        return facts if isinstance(facts, dict) else None

    def recorded(self, path: Path) -> bool:
        """Whether the manifest holds the hash of a file."""
        return path.relative_to(self.path).as_posix() in _table(self.manifest(), "files")

    def check_files(self, *below: str) -> None:
        """Hold recorded files against their hashes: those of these names or in folders of these names, or all.

        Errors: core.missing_file, core.hash_differs.
        """
        for name, digest in _table(self.manifest(), "files").items():
            if below and not any(name == each or name.startswith(f"{each}/") for each in below):
                continue
            if not (self.path / name).is_file():
                raise TunesmithError("core.missing_file", path=str(self.path / name))
            if sha256_file(self.path / name) != digest:
                raise TunesmithError("core.hash_differs", path=str(self.path / name))

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the run for this process, and clear away what a killed one left in it.

        The lock is the operating system's: it goes with the process that held it, however that ended, so no number of
        a dead process can be mistaken for a living one. It keeps out other machines where the file system carries it
        to them (lock.py). Errors: core.run_in_use, those of `disk_errors`.
        """
        with disk_errors(self.path):
            descriptor = os.open(self.path / _OWNER, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            with disk_errors(self.path):
                self._lock(descriptor)
                alone = not locks_stay_here(self.path)
                remove_rubbish(self.path, alone=alone)
                for folder in sorted(each for each in self.path.iterdir() if each.is_dir()):
                    remove_rubbish(folder, alone=alone)
            try:
                yield
            finally:
                with suppress(OSError):
                    os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def refuse_if_owned(self) -> None:
        """Look before anything heavy is loaded. Errors: core.run_in_use while another process holds the run."""
        try:
            descriptor = os.open(self.path / _OWNER, os.O_RDONLY)
        except OSError:  # nobody has ever worked here, or `owned` will say why it cannot be opened
            return
        try:
            self._take(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def is_owned(self) -> bool:
        """Whether another process holds the run."""
        try:
            self.refuse_if_owned()
        except TunesmithError:
            return True
        return False

    def _take(self, descriptor: int, kind: int) -> None:
        """Lock, or name the owner. Errors: core.run_in_use."""
        pid = machine = ""
        for _ in range(_LOOKS):
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                return
            pid, _, machine = os.pread(descriptor, 300, 0).decode("utf-8", "replace").strip().partition(" ")
            if pid.isdecimal() and machine == platform.node() and is_alive(int(pid)):
                break
            time.sleep(_BETWEEN_LOOKS)  # an owner that has not written its number yet, or somebody who only looks
        raise TunesmithError("core.run_in_use", path=str(self.path), pid=pid or "?", machine=machine or "?")

    def _lock(self, descriptor: int) -> None:
        self._take(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {platform.node()}".encode(), 0)


def _table(manifest: dict[str, object], key: str) -> dict[str, object]:
    table = manifest.setdefault(key, {})
    if not isinstance(table, dict):
        raise TunesmithError("core.broken_json", path=MANIFEST, reason=f"{key} is not an object")
    return table


def installed_versions() -> dict[str, str]:
    """Versions of the packages that can change a result."""
    found: dict[str, str] = {}
    for package in _RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@contextmanager
def one_at_a_time(root: Path) -> Iterator[None]:
    """Wait until no other process finds or makes a run below `root`: two that start one recipe get one run.

    Errors: those of `disk_errors`.
    """
    root = root.absolute()
    with disk_errors(root):
        descriptor = _first_in(root)
    try:
        yield
    finally:
        with suppress(OSError):  # an empty file that stays harms nobody
            (root / _STARTING).unlink()
        os.close(descriptor)
        with suppress(OSError):  # a run is in it
            root.rmdir()


def _first_in(root: Path) -> int:
    """The lock of a folder, which goes with its only run, so perhaps as we come."""
    while True:
        make_folders(root)
        with suppress(FileNotFoundError):
            descriptor = lock_file(root / _STARTING, float("inf"))
            assert descriptor is not None
            return descriptor


def list_runs(root: Path, name: str | None = None, recipe_hash: str = "") -> list[Run]:
    """Every run below `root`, or those of one name and of one recipe's hash, oldest first.

    Names of folders tell them apart: no manifest is opened, so that a damaged one stands in nobody's way.
    """
    names = "*" if name is None else glob.escape(name)
    folders = f"*-{recipe_hash[:8]}*" if recipe_hash else "*"
    found = [path.parent for path in root.glob(f"{names}/{folders}/{MANIFEST}")]
    whole = [each for each in found if not each.name.startswith(ASIDE) and (each / LOCK).exists()]
    return [Run(each) for each in sorted(whole, key=lambda each: (each.name, each))]
