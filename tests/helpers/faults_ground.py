"""The ground on which one scenario is tried again and again: as it was before, as it is afterwards, and what is whole.

`look` reads a scenario's folder as a user of the product would and raises unless everything visible is whole by its
hashes; what it returns tells the old content from the new.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from faults_corpus import CORPUS
from faults_forks import Forks, Outcome
from faults_shim import NO_FAULT, Fault

from tunesmith.core.events import read_events
from tunesmith.core.files import ASIDE, folder_hashes, sha256_file, verify_folder
from tunesmith.core.ledger import Ledger
from tunesmith.core.run import Run, list_runs
from tunesmith.data.prepare import load_splits

State = Mapping[str, str]
"""What stands under each name that a user can see."""


class Ground:
    """One scenario: prepared once, done once without a fault, then put back as often as asked."""

    def __init__(self, forks: Forks, name: str) -> None:
        self.name = name
        self._forks = forks
        folder = forks.folder / name
        self.live, self._before, self._kept = (folder / each for each in ("live", "before", "kept"))
        _succeeded(forks.run(name, "prepare"))
        shutil.copytree(self.live, self._before)
        self.old = self.look()
        self.operations = _succeeded(self.work()).operations
        self.new = self.look()
        assert not self.rubbish()

    def restore(self) -> None:
        """Everything as it was before the work."""
        _replace(self._before, self.live)

    def keep(self) -> None:
        """Remember the folder as it is."""
        _replace(self.live, self._kept)

    def back(self) -> None:
        """The folder as it was kept."""
        _replace(self._kept, self.live)

    def work(self, fault: Fault = NO_FAULT) -> Outcome:
        return self._forks.run(self.name, "work", fault)

    def recover(self, fault: Fault = NO_FAULT) -> Outcome:
        return self._forks.run(self.name, "recover", fault)

    def look(self) -> State:
        return _LOOKS[self.name](self.live)

    def check(self) -> State:
        """Everything visible is whole, and either old or new."""
        found = self.look()
        for name in found.keys() | self.old.keys() | self.new.keys():
            allowed = {self.old.get(name), self.new.get(name)}
            assert found.get(name) in allowed, f"{name} is {found.get(name)}, neither old nor new: {allowed}"
        return found

    def check_recovered(self) -> State:
        """The same after the next start, which also takes the rubbish away."""
        _succeeded(self.recover())
        assert not self.rubbish()
        return self.check()

    def finish(self) -> None:
        """Done again without a fault, the work ends as if nothing had happened."""
        _succeeded(self.work())
        assert not self.rubbish()
        found = self.look()
        odd = {name: (found.get(name), self.new.get(name)) for name in found.keys() | self.new.keys()}
        assert found == self.new, {name: pair for name, pair in odd.items() if pair[0] != pair[1]}

    def rubbish(self) -> list[str]:
        return [str(path) for path in self.live.rglob(f"{ASIDE}*")]


def _succeeded(outcome: Outcome) -> Outcome:
    assert outcome.well, f"{outcome.code} {outcome.facts} {outcome.signal} {outcome.trace}"
    return outcome


def _replace(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)


# ------------------------------------------------------------------------------------- what each scenario shows


def _visible(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (each for each in sorted(folder.iterdir()) if not each.name.startswith(ASIDE))


def _digest(hashes: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:12]


def _look_checkpoint(live: Path) -> State:
    found = {}
    for path in _visible(live / "instruct"):
        verify_folder(path)
        # the seconds that a training took are its own each time
        found[path.name] = _digest({name: each for name, each in folder_hashes(path).items() if name != "state.json"})
    assert "best" in found and any(name.startswith("checkpoint-") for name in found), "something to go on from"
    return found


def _look_corpus(live: Path) -> State:
    path = live / CORPUS
    if not path.is_dir():
        return {}
    verify_folder(path)
    return {CORPUS: _digest(folder_hashes(path))}


def _look_rows(live: Path) -> State:
    found = {}
    names = [path for folder in _visible(live) for path in _visible(folder)]
    runs = list_runs(live)
    assert sorted(each.path for each in runs) == names, "nothing but whole runs"
    assert len(runs) < 2
    for run in runs:
        run.check_files()
        found["run"] = sha256_file(run.path / "recipe.lock.yaml")
        done = run.stage("data") is not None
        if (run.path / "data").is_dir():
            rows = sum(len(frame) for frame in load_splits(run.path).values())
            found["data"] = _digest({"rows": rows, **folder_hashes(run.path / "data")})
        for each in ("ledger.jsonl", "data_card.md", "data_card.html", "xray.html"):
            if (run.path / each).exists():
                found[each] = sha256_file(run.path / each)
        if done:
            found["done"] = "data"
            used = [row for frame in load_splits(run.path).values() for row in frame["row"]]
            Ledger.load(run.path / "ledger.jsonl").check(used)
    return found


def _look_export(live: Path) -> State:
    found = {}
    for path in _visible(live / "ship"):
        verify_folder(path)
        found[path.name] = sha256_file(path / "model.safetensors")
    return found


def _look_records(live: Path) -> State:
    run = Run.open(live / "records" / "run")
    run.check_files()
    stages = run.manifest()["stages"]
    assert isinstance(stages, dict)
    found = {"stages": ", ".join(sorted(stages)), "card": (run.path / "release_card.md").read_text()}
    for name in ("ledger.jsonl", "evaluate/base.json"):
        if (run.path / name).exists():
            found[name] = sha256_file(run.path / name)
    lines = (run.path / "metrics.jsonl").read_bytes().split(b"\n")
    whole = read_events(run.path / "metrics.jsonl")
    assert len([each for each in lines if each]) - len(whole) <= 1, "at most one line was cut short"
    assert any(each.values.get("stage") == "plan" for each in whole), "what was written before is still there"
    return found


def _look_collected(live: Path) -> State:
    found = {}
    for path in _visible(live / "collected"):
        verify_folder(path)
        found["rows"] = sha256_file(path / "rows.jsonl")
    return found


_LOOKS: Mapping[str, Callable[[Path], State]] = {
    "checkpoint": _look_checkpoint,
    "rows": _look_rows,
    "export": _look_export,
    "records": _look_records,
    "collected": _look_collected,
    "corpus": _look_corpus,
    "pictures": _look_rows,
}
