"""What is done to files while the shim of `faults_shim.c` counts: the saving of a fit, of rows, of an export, of a run,
of a corpus, of pictures.

Each scenario works in `<folder>/live`. `prepare` makes what was there before, `work` replaces or adds to it, `recover`
is the next start. Parts run in forked children (`faults_forks.py`); what they share is made in the parent.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from faults_corpus import Corpus
from faults_media import Pictures
from fits import examples, local, make_job
from tiny_project import write_tiny_recipe

from tunesmith import lifecycle
from tunesmith.core.events import Events
from tunesmith.core.files import write_json
from tunesmith.core.ledger import Ledger
from tunesmith.core.run import Run, list_runs
from tunesmith.data.collect.fetch import collect
from tunesmith.models.load import resolve_base
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.recipe.specs.ship import ParityLimits
from tunesmith.recipe.specs.sources import SourceSpec
from tunesmith.ship.publish import Shipping, ship_formats
from tunesmith.train.loop import Job, fit

LIVE = "live"


class Scenario(Protocol):
    """Three parts, each of which leaves everything it made in `live`."""

    def prepare(self) -> None: ...

    def work(self) -> None: ...

    def recover(self) -> None: ...


def _owned(run: Path) -> None:
    with Run(run).owned():
        pass


class Checkpointing:
    """A fit that validates and saves after every step, keeps one checkpoint, and goes from step 2 to step 3."""

    def __init__(self, folder: Path, settings: Mapping[str, object] | None = None) -> None:
        base = tiny_chat_model(folder / "base", spread=0.1)
        self._live = folder / LIVE
        self._stage = self._live / "instruct"
        often = {"eval_steps": 1, "save_total_limit": 1, "max_steps": 3, **(settings or {})}
        self._make: Callable[[], Job] = lambda: make_job(
            base, self._stage, local(), settings=often, rows=12, emitter=Events(self._live / "metrics.jsonl")
        )
        self._job = self._make()

    def prepare(self) -> None:
        fit(self._job, until=2)

    def work(self) -> None:
        with Run(self._live).owned():
            fit(self._job, until=3)

    def recover(self) -> None:
        _owned(self._live)
        if self._job.checkpoints.newest() is None:
            raise LookupError("no checkpoint")


class Rows:
    """A recipe becomes a run, and its sources become the splits of that run, with rows made from the training rows."""

    _CHANGES = ('data.augment={"edit": {}}',)

    def __init__(self, folder: Path) -> None:
        self._recipe = write_tiny_recipe(folder / "project", tiny_chat_model(folder / "base"), rows=(12, 4, 4))
        self._runs = folder / LIVE

    def prepare(self) -> None:
        self._runs.mkdir()

    def work(self) -> None:
        work = lifecycle.start(self._recipe, self._CHANGES, self._runs, ())
        with work.run.owned():
            lifecycle.prepare_data(work)

    def recover(self) -> None:
        found = list_runs(self._runs)
        _owned(found[-1].path if found else lifecycle.start(self._recipe, self._CHANGES, self._runs, ()).path)


class Export:
    """Merged weights published over those of an earlier change."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._live = folder / LIVE
        self._base = tiny_chat_model(folder / "base", spread=0.2, heads=2)
        self._chats = [each.messages for each in examples(4)]

    def _change(self, seed: int) -> Path:
        return self._folder / f"change-{seed}"

    def prepare(self) -> None:
        for seed in (1, 2):
            settings = {"max_steps": 2, "seed": seed}
            fit(make_job(self._base, self._change(seed), local(), settings=settings, rows=8))
        self._live.mkdir()
        self._ship(1)

    def work(self) -> None:
        self._ship(2)

    def recover(self) -> None:
        _owned(self._live)

    @cached_property
    def _limits(self) -> ParityLimits:
        return ParityLimits(chats=len(self._chats))

    def _ship(self, seed: int) -> None:
        base = resolve_base(str(self._base))
        shipping = Shipping(self._live, base, self._change(seed) / "best", self._chats, None, self._limits)
        with Run(self._live).owned():
            ship_formats(shipping, ["safetensors"])


class Records:
    """What a run keeps about itself: manifest, ledger, metrics, results and a page that is written anew."""

    def __init__(self, folder: Path) -> None:
        self._runs = folder / LIVE

    @property
    def _run(self) -> Run:
        return Run(self._runs / "records" / "run")

    def prepare(self) -> None:
        made = Run.create(self._runs, "records", "0123456789abcdef", files={"recipe.lock.yaml": b"name: records\n"})
        made.path.rename(self._run.path)  # a name that the test knows
        self._page("first")
        self._run.finish_stage("plan")
        Events(self._run.path / "metrics.jsonl").emit("stage_end", stage="plan")

    def work(self) -> None:
        run, events = self._run, Events(self._run.path / "metrics.jsonl")
        with run.owned():
            for number in range(3):
                events.emit("step", step=number)
            events.emit("validation", loss=1.5)
            ledger = Ledger()
            ledger.read("tickets.jsonl", 5)
            ledger.write(run.path / "ledger.jsonl")
            write_json(run.path / "evaluate" / "base.json", {"exact_match": 0.5})
            self._page("second")
            run.finish_stage("train", run.path / "ledger.jsonl", run.path / "evaluate" / "base.json")
            events.emit("stage_end", stage="train")

    def recover(self) -> None:
        _owned(self._run.path)

    def _page(self, text: str) -> None:
        page = self._run.path / "release_card.md"
        with self._run.replacing(page):
            lifecycle.write_atomic(page, f"{text}\n")


class Collected:
    """Rows of a database in the place of those of an earlier time."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._home = folder, folder / LIVE
        folder.mkdir(parents=True, exist_ok=True)
        self._source = SourceSpec(query="select text from notes", database="env:NOTES_URL")
        for name, rows in (("first", 3), ("second", 5)):
            with sqlite3.connect(folder / f"{name}.db") as connection:
                connection.execute("create table notes (text text)")
                connection.executemany("insert into notes values (?)", [(f"{name} {n}",) for n in range(rows)])
            connection.close()

    def prepare(self) -> None:
        self._home.mkdir()
        self._collect("first", again=False)

    def work(self) -> None:
        self._collect("second", again=True)

    def recover(self) -> None:
        os.environ["TUNESMITH_HOME"] = str(self._home)
        os.environ.pop("NOTES_URL", None)
        collect([self._source], self._folder, offline=True)

    def _collect(self, name: str, *, again: bool) -> None:
        os.environ |= {"TUNESMITH_HOME": str(self._home), "NOTES_URL": f"sqlite:///{self._folder}/{name}.db"}
        collect([self._source], self._folder, offline=False, again=again)


SCENARIOS: Mapping[str, Callable[[Path], Scenario]] = {
    "checkpoint": Checkpointing,
    "rows": Rows,
    "export": Export,
    "records": Records,
    "collected": Collected,
    "corpus": Corpus,
    "pictures": Pictures,
}
NAMES: Sequence[str] = tuple(SCENARIOS)
RECOVERED_BY_WORK = ("corpus",)
"""Where the next start does all that is left, hundreds of file operations: combinations would be as many as the square
of that and a try takes most of a second, so for each operation one of them is drawn."""
