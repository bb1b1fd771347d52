"""A4 and A1 for the whole program: a signal in any stage of `tunesmith run`; the same command then ends it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faults_kill import Blow, KillRunner, Outcome
from faults_victims import command_of
from tiny_project import write_tiny_recipe

from tunesmith.core.files import folder_hashes
from tunesmith.core.run import Run, list_runs
from tunesmith.models.tiny import tiny_chat_model

if TYPE_CHECKING:
    from faults_tally import Tally

STAGES = ("data", "plan", "baseline", "train", "evaluate", "ship")
SECONDS_TO_LEAVE = 10.0
"""The step under way is finished and saved, and the process has ended: for this tiny model on a busy machine."""
NOT_COMPARED = {"parity.json", "README.md", "state.json"}
"""These hold seconds and dates."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    return write_tiny_recipe(folder, tiny_chat_model(folder / "base", spread=0.1, context=2048), rows=(24, 4, 6))


@pytest.fixture(scope="module")
def whole(runner: KillRunner, recipe: Path) -> Run:
    runs = recipe.parent / "unbroken"
    outcome = runner.do(command_of("run", recipe, "--runs", runs))
    assert outcome.code == 0, outcome.error
    (run,) = list_runs(runs)
    return run


def assert_same(found: Run, expected: Run) -> None:
    for folder in ("data", "instruct", "ship"):
        left, right = folder_hashes(found.path / folder), folder_hashes(expected.path / folder)
        for hashes in (left, right):
            for name in [each for each in hashes if Path(each).name in {*NOT_COMPARED, "manifest.json"}]:
                del hashes[name]
        assert left == right, folder
    for answers in ("base", "base_with_examples", "tuned"):
        pages = (each.path / "evaluate" / f"{answers}.json" for each in (found, expected))
        left, right = (json.loads(page.read_text("utf-8"))["rows"] for page in pages)
        assert left == right, answers


def blows(tally: Tally, whole: Run) -> Iterator[tuple[int, Blow]]:
    """Every stage with each signal, at a moment of the stage; in the slice one of each signal."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
    chosen = [(number, stage) for number in numbers for stage in STAGES]
    if not tally.full:
        chosen = [(signal.SIGTERM, tally.random.choice(STAGES[:3])), (signal.SIGINT, "train"), (signal.SIGKILL, "ship")]
    for number, stage in chosen:
        facts = whole.stage(stage)
        assert facts is not None
        heading = f"{STAGES.index(stage) + 1}/{len(STAGES)}  "
        yield number, Blow(number, tally.random.random() * 0.8 * float(str(facts["seconds"])), after=heading)


@pytest.mark.case("A4", "A1")
@pytest.mark.timeout(600)
def test_a_signal_in_every_stage_of_a_run(
    runner: KillRunner, recipe: Path, whole: Run, tmp_path: Path, tally: Tally
) -> None:
    for attempt, (number, blow) in enumerate(blows(tally, whole)):
        struck, runs = _struck(runner, recipe, tmp_path / str(attempt), blow)
        command = command_of("run", recipe, "--runs", runs)
        if number == signal.SIGKILL:
            assert struck.code == -signal.SIGKILL
        else:
            _assert_left_in_words(struck, number, blow)
        resumed = runner.do(command)
        assert resumed.code == 0, (blow, resumed.error)
        (run,) = list_runs(runs)
        assert_same(run, whole)
        tally.count("kills" if number == signal.SIGKILL else "signals")


def _struck(runner: KillRunner, recipe: Path, folder: Path, blow: Blow) -> tuple[Outcome, Path]:
    """The outcome, and the folder of the run; where the run came to its end first, once more and sooner."""
    for number in range(5):
        runs = folder / str(number)
        outcome = runner.do(command_of("run", recipe, "--runs", runs), replace(blow, seconds=blow.seconds / 2**number))
        if outcome.struck and outcome.code != 0:
            return outcome, runs
        assert not outcome.struck or outcome.seconds < 0.1, f"a signal was lost: {blow}"
    raise AssertionError(blow)


def _assert_left_in_words(struck: Outcome, number: int, blow: Blow) -> None:
    assert struck.code == 128 + number, (blow, struck.code, struck.error)
    assert struck.seconds < SECONDS_TO_LEAVE, blow
    assert "Traceback" not in struck.error and "Exception ignored" not in struck.error, struck.error
    code, cause, next_step = struck.error.strip().splitlines()
    assert code in ("core.interrupted", "train.interrupted")
    assert cause.strip() and "Run the same command again" in next_step
