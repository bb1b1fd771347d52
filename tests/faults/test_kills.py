"""A fit that is killed, stopped or told to stop ends as the unbroken one, to the byte: A1, A6, and A4 for the loop."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faults_kill import Blow, KillRunner, Outcome
from faults_victims import fit_of

from tunesmith.core.files import folder_hashes, verify_folder
from tunesmith.models.tiny import tiny_chat_model

if TYPE_CHECKING:
    from faults_tally import Tally

Unbroken = Callable[[int], tuple[Outcome, Path]]

EPOCH = 6
"""Steps of an epoch: 12 rows, two a step."""
SHORT, LONG = 2, 10
"""Epochs of a fit that is stopped at fixed places, and of one that is killed a hundred times."""
SAVED_EVERY = 2
SETTINGS: dict[str, object] = {
    "batch_size": 1,
    "gradient_accumulation_steps": 2,
    "save_steps": SAVED_EVERY,
    "eval_steps": 5,
    "save_total_limit": 2,
}
FIGURES = ("loss", "gradient_norm", "learning_rate", "tokens", "epoch")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "base", spread=0.1, layers=1, hidden=32)


def spec_of(epochs: int, **settings: object) -> dict[str, object]:
    """What `make_job` takes for a fit of so many epochs."""
    given = {**SETTINGS, "epochs": float(epochs), **settings}
    return {"settings": given, "adapt": {"lora_dropout": 0.1}, "rows": 2 * EPOCH}


@pytest.fixture(scope="module")
def unbroken(runner: KillRunner, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    """The unbroken fit of so many epochs, and its folder."""

    @cache
    def whole(epochs: int) -> tuple[Outcome, Path]:
        folder = tmp_path_factory.mktemp("unbroken") / "fit"
        outcome = runner.do(fit_of(base, folder, **spec_of(epochs)))
        assert outcome.code == 0, outcome.error
        return outcome, folder

    return whole


def steps_of(outcome: Outcome) -> list[tuple[int, tuple[object, ...]]]:
    """Every step that was done, with its figures and its rows in their order."""
    rows = {fact["step"]: fact["rows"] for fact in outcome.all("window")}
    return [
        (int(str(fact["step"])), (*(fact[name] for name in FIGURES), rows[fact["step"]]))
        for fact in outcome.all("step")
    ]


def state_of(checkpoint: Path) -> object:
    """Everything in state.json but the seconds."""
    state = json.loads((checkpoint / "state.json").read_text("utf-8"))
    del state["progress"]["seconds"]
    return state


def assert_same_folders(found: Path, expected: Path) -> None:
    """The same checkpoints with the same bytes, no rubbish beside them."""
    names = sorted(path.name for path in expected.iterdir())
    assert sorted(path.name for path in found.iterdir()) == names
    for name in names:
        verify_folder(found / name)
        left, right = folder_hashes(found / name), folder_hashes(expected / name)
        if (expected / name / "state.json").exists():
            assert state_of(found / name) == state_of(expected / name)
            del left["state.json"], right["state.json"]
        assert left == right, name


def assert_same_steps(outcomes: list[Outcome], whole: Outcome) -> None:
    """Every step that any of them did had the rows and figures of the unbroken run's."""
    expected = dict(steps_of(whole))
    done = [step for outcome in outcomes for step in steps_of(outcome)]
    for step, figures in done:
        assert figures == expected[step], step
    assert {step for step, _ in done} == expected.keys()


# ------------------------------------------------------------------------------------------------ A1


@pytest.mark.case("A1")
@pytest.mark.timeout(900)
def test_kills_at_random_moments(
    runner: KillRunner, base: Path, unbroken: Unbroken, tmp_path: Path, tally: Tally
) -> None:
    epochs = tally.amount(SHORT, LONG)
    whole, expected = unbroken(epochs)
    wanted, runs = tally.amount(6, 100), 0
    kills: list[Outcome] = []
    while len(kills) < wanted:
        runs += 1
        folder = tmp_path / f"run-{runs}"
        work = fit_of(base, folder, **spec_of(epochs))
        outcomes = [*_struck_until_done(runner, work, whole, tally, wanted - len(kills))]
        kills += [each for each in outcomes if each.code == -signal.SIGKILL]
        assert_same_folders(folder, expected)
        assert_same_steps(outcomes, whole)
        _assert_little_is_repeated(outcomes)
    inside = sum(each.inside_save for each in kills)
    tally.count("kills", len(kills))
    tally.count("kills inside a save", inside)
    tally.count("killed runs", runs)
    assert 4 * inside >= len(kills)


def _struck_until_done(
    runner: KillRunner, work: Mapping[str, object], whole: Outcome, tally: Tally, kills: int
) -> Iterator[Outcome]:
    """Attempt after attempt, so many of them killed at a moment that is drawn, until the run has come to its end."""
    while True:
        outcome = runner.do(work, _moment(whole, tally) if kills > 0 else None)
        yield outcome
        if outcome.code == 0:
            return
        assert outcome.code == -signal.SIGKILL, (outcome.error, outcome.told[-1:])
        kills -= 1


def _moment(whole: Outcome, tally: Tally) -> Blow:
    """Anywhere in the start or in two save intervals after it; or anywhere in one of the next saves."""
    draw = tally.random
    begin, first = float(str(whole.all("begin")[0]["time"])), float(str(whole.all("window")[0]["time"]))
    saves, saved = whole.all("save"), whole.all("saved")
    interval = (float(str(saved[-1]["time"])) - first) / (len(whole.all("step")) / SAVED_EVERY)
    if draw.random() < 0.4:
        lengths = [float(str(b["time"])) - float(str(a["time"])) for a, b in zip(saves, saved, strict=True)]
        length = sorted(lengths)[len(lengths) // 2]
        return Blow(signal.SIGKILL, draw.random() * length, after='"at": "save"', time=draw.choice((1, 2)))
    start = whole.seconds - (float(str(whole.all("end")[0]["time"])) - begin)
    if draw.random() < 0.1:
        return Blow(signal.SIGKILL, draw.random() * start)
    return Blow(signal.SIGKILL, draw.random() * 2 * interval, after='"at": "window"')


def _assert_little_is_repeated(outcomes: list[Outcome]) -> None:
    """After a kill at most the steps of one save interval are done again."""
    done = 0
    for outcome in outcomes:
        resumed = [int(str(fact["step"])) for fact in outcome.all("resume")]
        begun = outcome.all("window")
        if begun:
            came_from = resumed[0] if resumed else 0
            assert int(str(begun[0]["step"])) == came_from + 1
            assert done - came_from <= SAVED_EVERY, f"{done} steps were done, and it went on from {came_from}"
        done = max([done, *(step for step, _ in steps_of(outcome))])


# ------------------------------------------------------------------------------------------------ A6 and A4


STOPS: dict[str, dict[str, object]] = {
    "inside gradient accumulation": {"at": "micro-batch", "step": 9, "number": 2},
    "in the very first micro-batch": {"at": "micro-batch", "step": 1, "number": 1},
    "inside validation": {"at": "validation", "step": 10, "number": 2},
    "between the best and the checkpoint": {"at": "best", "step": 5},
    "before a save": {"at": "save", "step": 8},
    "after a save": {"at": "saved", "step": 8},
    "at the epoch edge, before its last step": {"at": "window", "step": EPOCH},
    "at the epoch edge, after its last step": {"at": "window", "step": EPOCH + 1},
    "at the last save": {"at": "save", "step": SHORT * EPOCH},
}


@pytest.mark.case("A6", "A4")
@pytest.mark.timeout(600)
def test_a_stop_at_a_fixed_place(
    runner: KillRunner, base: Path, unbroken: Unbroken, tmp_path: Path, tally: Tally
) -> None:
    whole, expected = unbroken(SHORT)
    numbers = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    stops = [(place, number) for place in STOPS for number in numbers]
    for place, number in tally.random.sample(stops, tally.amount(4, len(stops))):
        folder = tmp_path / f"{place}-{number.name}"
        stopped = runner.do(fit_of(base, folder, {**STOPS[place], "signal": int(number)}, **spec_of(SHORT)))
        assert stopped.all("stop"), (stopped.code, stopped.error)
        if number == signal.SIGKILL:
            assert stopped.code == -signal.SIGKILL
        else:
            (error,) = stopped.all("error")
            assert (stopped.code, error["code"]) == (2, "train.interrupted"), stopped.error
            saved_at = max(int(str(fact["step"])) for fact in stopped.all("saved"))
            assert saved_at == steps_of(stopped)[-1][0], "the step under way is finished and saved"
        resumed = runner.do(fit_of(base, folder, **spec_of(SHORT)))
        assert resumed.code == 0, resumed.error
        assert_same_folders(folder, expected)
        assert_same_steps([stopped, resumed], whole)
        tally.count("stops at fixed places")


PATIENT: dict[str, object] = {
    "learning_rate": 10.0,  # so that the loss of validation rises
    "lr_scheduler_type": "constant",
    "eval_steps": 2,
    "early_stopping": {"patience": 4},
}


@pytest.mark.case("A6")
def test_a_stop_while_patience_counts(runner: KillRunner, base: Path, tmp_path: Path, tally: Tally) -> None:
    spec = spec_of(LONG, **PATIENT)
    whole = runner.do(fit_of(base, tmp_path / "whole", **spec))
    (end,) = whole.all("end")
    assert end["stopped_early"] and int(str(end["steps"])) < LONG * EPOCH, "made so that patience comes to its end"
    waiting = [int(str(fact["step"])) for fact in whole.all("validation") if not fact["best"]]
    for number in range(tally.amount(1, 4)):
        step = waiting[-1 - number]
        place = {
            "at": tally.random.choice(["validation", "save", "saved"]),
            "step": step,
            "signal": int(signal.SIGKILL),
        }
        folder = tmp_path / f"broken-{number}"
        stopped = runner.do(fit_of(base, folder, place, **spec))
        assert stopped.code == -signal.SIGKILL, stopped.error
        resumed = runner.do(fit_of(base, folder, **spec))
        assert resumed.code == 0, resumed.error
        assert resumed.all("end")[0]["stopped_early"]
        assert_same_folders(folder, tmp_path / "whole")
        assert_same_steps([stopped, resumed], whole)
        tally.count("stops at fixed places")
