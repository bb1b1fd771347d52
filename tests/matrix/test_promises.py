"""Each promise of the matrix is broken on purpose once, and is seen to be broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matrix_check
import pytest
import torch
from faults_training import Watch
from fits import local
from matrix_axes import Point
from matrix_check import Trained
from matrix_ground import Ground

from tunesmith.core.errors import TunesmithError

POINT = Point("lora", "l2_sp", "text_class: decoder", "local")


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@pytest.fixture(scope="module")
def trained(bases: Path, tmp_path_factory: pytest.TempPathFactory, watch: Watch) -> Trained:
    folder, ground = tmp_path_factory.mktemp("promises") / "whole", Ground(POINT, bases)
    return matrix_check.train_ground(ground, ground.job(folder, local(), watch.emitter), folder)


def test_a_fit_keeps_them(trained: Trained, watch: Watch, tmp_path: Path) -> None:
    matrix_check.terms_are_told(trained, watch)
    matrix_check.same_bytes_when_broken_off(trained, tmp_path, local())
    for promise in (matrix_check.loss_falls, matrix_check.named_tensors_move, matrix_check.count_is_the_formulas,
                    matrix_check.change_is_put_on_again, matrix_check.change_is_merged):  # fmt: skip
        promise(trained)


def with_bytes(trained: Trained, ending: str, new: Callable[[bytes], bytes]) -> Trained:
    name = next(each for each in trained.before if each.endswith(ending))
    return replace(trained, after={**trained.after, name: new(trained.before[name])})


def test_a_loss_that_rises(trained: Trained) -> None:
    with pytest.raises(AssertionError):
        matrix_check.loss_falls(replace(trained, loss_after=trained.loss_before))


def test_a_frozen_tensor_that_moves_by_a_bit(trained: Trained) -> None:
    moved = with_bytes(trained, "embed_tokens.weight", lambda old: bytes([old[0] ^ 1]) + old[1:])
    with pytest.raises(AssertionError, match="embed_tokens"):
        matrix_check.named_tensors_move(moved)


def test_a_named_tensor_that_stands_still(trained: Trained) -> None:
    with pytest.raises(AssertionError, match="score"):
        matrix_check.named_tensors_move(with_bytes(trained, "score.weight", lambda old: old))


def test_a_term_that_is_missing(trained: Trained, bases: Path, watch: Watch) -> None:
    other = replace(trained, ground=Ground(replace(POINT, objective="l1"), bases))
    with pytest.raises((TypeError, ValueError)):  # what no step has told is no number
        matrix_check.terms_are_told(other, watch)


def test_another_count(trained: Trained, bases: Path) -> None:
    with pytest.raises(AssertionError):
        matrix_check.count_is_the_formulas(
            replace(trained, ground=Ground(replace(POINT, adapt="lora: top attention"), bases))
        )


def test_other_bytes_after_a_resume(trained: Trained, bases: Path, tmp_path: Path) -> None:
    other = replace(trained, ground=Ground(replace(POINT, objective="l1"), bases))
    with pytest.raises(AssertionError):
        matrix_check.same_bytes_when_broken_off(other, tmp_path, local())


def test_a_change_that_is_not_what_was_trained(trained: Trained) -> None:
    parameter = next(each for name, each in trained.policy.named_parameters() if ".lora_B." in name)
    kept = parameter.detach().clone()
    try:
        with torch.no_grad():
            parameter.add_(0.5)
        for promise in (matrix_check.change_is_put_on_again, matrix_check.change_is_merged):
            with pytest.raises(AssertionError):
                promise(trained)
    finally:
        with torch.no_grad():
            parameter.copy_(kept)


def test_a_refusal_that_nobody_stated(bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(recipe: object) -> None:
        raise TunesmithError("compat.one_task", place=0)

    monkeypatch.setattr(matrix_check, "check", refuse)
    with pytest.raises(AssertionError, match=r"compat\.one_task"):
        matrix_check.check_point(POINT, bases, tmp_path, local())


def test_a_refusal_that_does_not_come(bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_check, "codes", lambda point: {"compat.one_task"})
    with pytest.raises(AssertionError, match="should be refused"):
        matrix_check.check_point(POINT, bases, tmp_path, local())
