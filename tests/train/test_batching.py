"""The order of rows: every row once an epoch, the same for the same place, and whole windows for every layout."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from tunesmith.models.packed import Features, pack
from tunesmith.train.batching import Source, micro_batches


def rows(count: int) -> list[Features]:
    lengths = [3 + (7 * number) % 50 for number in range(count)]
    return [Features(number, tuple(range(length)), (1.0,) * length) for number, length in enumerate(lengths)]


def epoch_of(source: Source, epoch: int) -> list[list[int]]:
    first = epoch * source.windows_per_epoch
    return [[row.row for row in source.window(first + step)] for step in range(source.windows_per_epoch)]


@pytest.mark.parametrize(("count", "window"), [(1, 8), (8, 8), (9, 8), (100, 7), (300, 4), (513, 16), (5, 1)])
def test_an_epoch_holds_every_row_once(count: int, window: int) -> None:
    source = Source(rows(count), window, seed=1)
    for epoch in range(3):
        windows = epoch_of(source, epoch)
        assert sorted(itertools.chain(*windows)) == list(range(count))
        assert [len(each) for each in windows[:-1]] == [window] * (len(windows) - 1)
        assert len(windows[-1]) == count - window * (len(windows) - 1)


def test_the_order_is_a_function_of_seed_and_step() -> None:
    one, again = Source(rows(60), 4, seed=1), Source(rows(60), 4, seed=1)
    backwards = {step: [row.row for row in again.window(step)] for step in reversed(range(45))}
    assert all([row.row for row in one.window(step)] == backwards[step] for step in range(45))
    assert epoch_of(one, 0) != epoch_of(one, 1) != epoch_of(Source(rows(60), 4, seed=2), 1)


def test_rows_of_a_window_are_of_like_length_and_windows_come_in_any_order() -> None:
    source = Source(rows(512), 8, seed=3)
    windows = [source.window(step) for step in range(source.windows_per_epoch)]
    spreads = [max(lengths) - min(lengths) for lengths in ([len(row.token_ids) for row in each] for each in windows)]
    assert sum(spreads) / len(spreads) < 8, "lengths run from 3 to 52"
    means = [sum(len(row.token_ids) for row in each) / 8 for each in windows]
    rises = sum(later > earlier for earlier, later in itertools.pairwise(means))
    assert 20 < rises < 43, "not from short to long"


@pytest.mark.parametrize("count", range(1, 18))
def test_every_layout_of_a_window_sees_the_same_rows(count: int) -> None:
    window = rows(count)
    for per_batch, size in itertools.product((1, 2, 4, 8), (1, 2, 3)):
        ranks = [micro_batches(window, per_batch, rank, size) for rank in range(size)]
        assert len({len(batches) for batches in ranks}) == 1, "every rank takes as many turns"
        real = [row for batches in ranks for batch in batches for row in batch if any(row.weights)]
        assert sorted(row.row for row in real) == list(range(count))
        for batches in ranks:
            assert all(1 <= len(batch) <= per_batch for batch in batches)
        idle = [row for batches in ranks for batch in batches for row in batch if not any(row.weights)]
        assert all(row.token_ids == window[0].token_ids for row in idle)
        in_turn = [row.row for turn in zip(*ranks, strict=True) for batch in turn for row in batch if any(row.weights)]
        assert in_turn == list(range(count)), "order within the step does not depend on the layout"


def questions(passages: int, each: int) -> list[Features]:
    """Rows of a common system prompt, one of some passages and a question of their own."""
    system, made = tuple(range(20)), []
    for number in range(passages * each):
        passage = tuple(100 + 40 * (number % passages) + place for place in range(40))
        made.append(Features(number, (*system, *passage, 9000 + number, 1), (0.0,) * 61 + (1.0,)))
    return made


def test_questions_about_one_passage_meet_in_one_step() -> None:
    source = Source(questions(passages=16, each=4), 8, seed=1)
    for step in range(source.windows_per_epoch):
        window = source.window(step)
        assert len({row.row % 16 for row in window}) == 2, "two passages, four questions each"
        assert pack(window).num_tokens == 2 * 60 + 8 * 2
    assert epoch_of(source, 0) != epoch_of(source, 1)


def test_a_prompt_that_all_rows_share_brings_nobody_together() -> None:
    made = [replace(row, token_ids=(*range(50), number)) for number, row in enumerate(questions(4, 16))]
    apart = [replace(row, token_ids=(number, *range(50))) for number, row in enumerate(made)]
    assert epoch_of(Source(made, 8, seed=1), 0) == epoch_of(Source(apart, 8, seed=1), 0)
