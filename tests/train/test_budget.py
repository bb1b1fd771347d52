"""The arithmetic of memory: what was seen decides, what has run needs nothing new, and what came to stay is counted."""

from __future__ import annotations

import pytest

from tunesmith.train.budget import SPARE, Budget, Reading, largest_fitting, most_at_once

MIB = 2**20


def learned(tokens: int = 512, kept: int = 512 * MIB, *, device: str = "cpu", again: bool = False) -> Budget:
    """A budget that has seen one micro-batch which held `kept` bytes and took as much from the system."""
    budget = Budget(0, 256, again=again, device=device)
    before = Reading(10_000 * MIB, 100 * MIB, 100 * MIB)
    budget.forward_done(tokens, before, Reading(before.free - kept, before.used + kept, before.held + kept))
    budget.pass_done(tokens, before, Reading(before.free - kept, before.used, before.held + kept))
    return budget


AFTER = Reading(free=1000 * MIB, used=100 * MIB, held=612 * MIB)


def test_what_has_run_needs_nothing_new_however_little_is_free() -> None:
    nothing_free = Reading(0, AFTER.used, AFTER.held)
    budget = learned()
    assert budget.measured and not Budget(0, 256, again=False, device="cpu").measured
    assert budget.new_bytes(512, nothing_free) == budget.new_bytes(100, nothing_free) == 0
    assert budget.fits(512, nothing_free) and not budget.fits(513, nothing_free)


def test_more_tokens_need_their_own_bytes_and_what_the_heap_wastes() -> None:
    budget = learned()
    assert budget.new_bytes(1024, AFTER) == pytest.approx(1.6 * 512 * MIB)
    assert budget.fits(1024, Reading(1000 * MIB, AFTER.used, AFTER.held)) is (1.6 * 512 + 64 <= SPARE * 1000)
    assert not budget.fits(1024, Reading(900 * MIB, AFTER.used, AFTER.held))
    assert learned(device="cuda").new_bytes(1024, AFTER) < budget.new_bytes(1024, AFTER)
    assert learned(again=True).new_bytes(1024, AFTER) > 5 * budget.new_bytes(1024, AFTER)


def test_memory_given_back_or_come_to_stay_must_be_found_again() -> None:
    budget = learned()
    given_back = Reading(0, 100 * MIB, 300 * MIB)
    # As if it were the first, less the 200 MB that are idle.
    assert budget.new_bytes(512, given_back) == pytest.approx((1.6 * 512 - 200) * MIB)
    assert budget.new_bytes(256, given_back) == pytest.approx((1.6 * 256 - 200) * MIB)
    assert budget.new_bytes(512, Reading(0, 150 * MIB, 612 * MIB)) == 50 * MIB
    assert budget.new_bytes(512, Reading(0, 150 * MIB, 662 * MIB)) == 0, "what came to stay is held already"


def test_an_allocator_that_keeps_nothing_counts_from_its_highest_point() -> None:
    budget = Budget(0, 256, again=False, device="cpu")
    before = Reading(1000 * MIB, 100 * MIB, 100 * MIB)
    budget.forward_done(512, before, Reading(700 * MIB, 400 * MIB, 400 * MIB))
    budget.pass_done(512, before, before)
    assert budget.new_bytes(512, before) == pytest.approx(1.6 * 300 * MIB)


def test_a_step_that_took_more_than_expected_raises_what_is_expected() -> None:
    budget = learned()
    before = Reading(5000 * MIB, 100 * MIB, 612 * MIB)
    taken = 2000 * MIB + 64 * MIB
    budget.forward_done(1024, before, Reading(0, before.used + 1024 * MIB, before.held + 1000 * MIB))
    budget.pass_done(1024, before, Reading(before.free - taken, before.used, before.held + taken))
    after = Reading(5000 * MIB, 100 * MIB, before.held + taken)
    assert budget.new_bytes(1536, after) == pytest.approx(2000 * MIB)


def test_short_first_passes_are_believed_only_until_a_longer_one() -> None:
    budget = Budget(0, 256, again=False, device="cpu")
    start = Reading(0, 0, 0)
    for tokens, used, expected in ((20, 200, 10), (400, 400, 1), (20, 200, 1), (400, 800, 2)):
        budget.forward_done(tokens, start, Reading(0, used * MIB, 0))
        assert budget.new_bytes(100, start) == pytest.approx(1.6 * 100 * expected * MIB)


def test_logits_are_counted_up_to_one_chunk() -> None:
    budget = Budget(MIB, 256, again=False, device="cpu")
    start = Reading(0, 0, 0)
    budget.forward_done(100, start, start)
    budget.pass_done(100, start, start)
    budget.forward_done(300, start, Reading(0, 300, 0))  # a byte a token, so that more tokens are more
    assert budget.new_bytes(200, start) == pytest.approx(100 * MIB, rel=1e-3)
    assert budget.new_bytes(5000, start) == pytest.approx(156 * MIB, rel=1e-3)


def test_a_row_is_hopeless_only_without_any_reserve() -> None:
    budget = learned()
    enough = Reading(free=850 * MIB, used=100 * MIB, held=612 * MIB)
    assert not budget.fits(1024, enough) and not budget.hopeless(1024, enough)
    assert budget.hopeless(1024, Reading(free=800 * MIB, used=100 * MIB, held=612 * MIB))
    assert not budget.hopeless(512, Reading(-5, 100 * MIB, 612 * MIB)), "it has run"


def test_little_free_memory_is_scarce_before_it_is_none() -> None:
    budget = learned()
    assert budget.scarce(512, Reading(600 * MIB, 0, 0)) and not budget.scarce(512, Reading(700 * MIB, 0, 0))


@pytest.mark.parametrize(("limit", "found"), [(5000, 4096), (4095, 2048), (1, 1), (0, 1)])
def test_halving(limit: int, found: int) -> None:
    assert largest_fitting(4096, lambda tokens: tokens <= limit) == found


def test_an_accelerator_wants_more_at_once() -> None:
    assert most_at_once("cpu") < most_at_once("cuda")
    assert largest_fitting(4096, lambda tokens: False, least=700) == 700
