"""Pictures and sounds made from others: boxes follow in closed form, and against pixels that were painted in them."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tunesmith.core.types import Box
from tunesmith.data.media.change_images import (
    VISIBLE,
    Seen,
    coloured,
    cropped,
    cut,
    cut_mixed,
    flipped,
    mixed_up,
    rotated,
    same_picture,
    turned,
)
from tunesmith.data.media.change_sounds import chance_of_media, masked, shifted, sped, with_noise

SIZE = st.integers(4, 24)


@st.composite
def painted(draw: st.DrawFn) -> Seen:
    """A black picture with one white box at whole pixels."""
    height, width = draw(SIZE), draw(SIZE)
    x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    box = Box("a", float(x), float(y), float(draw(st.integers(1, width - x))), float(draw(st.integers(1, height - y))))
    return Seen(paint(height, width, box), (box,))


def paint(height: int, width: int, box: Box) -> NDArray[np.uint8]:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[int(box.y) : int(box.y + box.height), int(box.x) : int(box.x + box.width)] = 255
    return pixels


@given(painted(), st.integers(-5, 9))
def test_boxes_follow_mirrors_and_quarter_turns_to_the_pixel(seen: Seen, quarters: int) -> None:
    for made in (flipped(seen), turned(seen, quarters)):
        np.testing.assert_array_equal(made.pixels_HWC, paint(made.height, made.width, made.boxes[0]))
    assert turned(turned(seen, quarters), -quarters).boxes == seen.boxes
    assert flipped(flipped(seen)).boxes == seen.boxes


@given(painted(), st.integers(0, 3))
def test_a_turn_by_quarters_is_a_rotation_of_a_square(seen: Seen, quarters: int) -> None:
    side = max(seen.height, seen.width)
    square = Seen(paint(side, side, seen.boxes[0]), seen.boxes)
    one, other = rotated(square, 90.0 * quarters), turned(square, quarters)
    np.testing.assert_array_equal(one.pixels_HWC, other.pixels_HWC)
    for found, expected in zip(one.boxes, other.boxes, strict=True):
        assert [found.x, found.y, found.width, found.height] == pytest.approx(
            [expected.x, expected.y, expected.width, expected.height], abs=1e-9
        )


@given(painted(), st.floats(-180, 180))
def test_whatever_was_painted_lies_in_its_turned_box(seen: Seen, degrees: float) -> None:
    made = rotated(seen, degrees)
    assert made.pixels_HWC.shape == seen.pixels_HWC.shape
    white = np.argwhere(
        made.pixels_HWC[..., 0] > 128
    )  # between pixels a line is taken: at an edge it is half as bright
    for box in made.boxes:
        assert 0 <= box.x and box.x + box.width <= made.width + 1e-9
        assert 0 <= box.y and box.y + box.height <= made.height + 1e-9
        if len(white):
            centres = white + 0.5
            assert centres[:, 1].min() >= box.x - 1e-6 and centres[:, 1].max() <= box.x + box.width + 1e-6
            assert centres[:, 0].min() >= box.y - 1e-6 and centres[:, 0].max() <= box.y + box.height + 1e-6


def test_a_turn_by_thirty_degrees_in_closed_form() -> None:
    seen = Seen(np.zeros((200, 200, 3), np.uint8), (Box("a", 80, 90, 40, 20),))
    (box,) = rotated(seen, 30).boxes
    width = 40 * np.cos(np.pi / 6) + 20 * np.sin(np.pi / 6)
    height = 40 * np.sin(np.pi / 6) + 20 * np.cos(np.pi / 6)
    assert (box.width, box.height) == pytest.approx((width, height))
    assert (box.x + box.width / 2, box.y + box.height / 2) == pytest.approx((100, 100))


@given(painted(), st.data())
def test_a_box_is_cut_with_its_picture_or_goes(seen: Seen, data: st.DataObject) -> None:
    left, top = data.draw(st.integers(0, seen.width - 1)), data.draw(st.integers(0, seen.height - 1))
    made = cropped(seen, left, top, data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30)))
    share = (made.pixels_HWC[..., 0] > 0).sum() / (seen.boxes[0].width * seen.boxes[0].height)
    if made.boxes:
        np.testing.assert_array_equal(made.pixels_HWC, paint(made.height, made.width, made.boxes[0]))
        assert share >= VISIBLE - 1e-9
    else:
        assert share < VISIBLE + 1e-9


def test_what_is_left_of_a_box_is_reckoned_over_all_changes() -> None:
    seen = Seen(np.zeros((100, 100, 3), np.uint8), (Box("a", 0, 0, 80, 10), Box("b", 80, 50, 20, 50)))
    half = cropped(seen, 40, 0, 60, 100, 0.5)
    assert half.left == (0.5, 1.0) and half.boxes[0].width == 40
    between = turned(flipped(half), 3)
    assert between.left == half.left
    made = cropped(turned(flipped(between), 3), 1, 0, 59, 100, 0.5)
    assert [box.label for box in made.boxes] == ["b"], "39 of 40 are left of what was there, 39 of 80 of the box"
    assert [box.label for box in cropped(half, 1, 0, 59, 100, 0.4).boxes] == ["a", "b"]
    whole = rotated(half, 0.0, 0.5)
    assert whole.left == half.left and len(cropped(whole, 1, 0, 59, 100, 0.5).boxes) == 1


def test_pictures_are_the_same_by_pixels_and_boxes() -> None:
    grey = Seen(np.full((6, 6, 3), 7, np.uint8), (Box("a", 1, 1, 4, 4),))
    assert same_picture(turned(flipped(grey), 1), grey)
    assert not same_picture(flipped(replace(grey, boxes=(Box("a", 1, 1, 3, 4),))), grey)
    assert not same_picture(coloured(grey, 2.0), grey)


def test_colours_in_closed_form() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    seen = Seen(pixels)
    np.testing.assert_array_equal(coloured(seen).pixels_HWC, pixels)
    np.testing.assert_array_equal(coloured(seen, brightness=0.5).pixels_HWC, np.rint(pixels * 0.5))
    grey = coloured(seen, saturation=0).pixels_HWC
    assert (grey == grey[..., :1]).all()
    for pixel, made in zip(pixels.reshape(-1, 3), grey.reshape(-1, 3), strict=True):
        assert abs(float(made[0]) - 255 * colorsys.rgb_to_yiq(*(pixel / 255))[0]) <= 1.5  # YIQ rounds its weights
    flat = coloured(seen, contrast=0).pixels_HWC
    assert len(np.unique(flat)) == 1
    assert coloured(Seen(np.full((2, 2, 3), 200, np.uint8)), brightness=9).pixels_HWC.max() == 255


def test_two_pictures_in_one_in_closed_form() -> None:
    one = Seen(np.full((10, 20, 3), 100, np.uint8), (Box("a", 0, 0, 10, 10), Box("b", 15, 0, 5, 5)))
    other = Seen(np.full((10, 20, 3), 200, np.uint8), (Box("c", 2, 2, 4, 4), Box("d", 12, 0, 8, 10)))
    both = mixed_up(one, other, 0.25)
    assert np.unique(both.pixels_HWC).tolist() == [175.0] and both.weight == 0.25
    assert [box.label for box in both.boxes] == ["a", "b", "c", "d"]
    made = cut_mixed(one, other, 0, 0, 8, 10)
    assert (made.pixels_HWC[:, :8] == 200).all() and (made.pixels_HWC[:, 8:] == 100).all()
    assert made.weight == pytest.approx(1 - 80 / 200)
    assert [box.label for box in made.boxes] == ["b", "c"], (
        "of a only a fifth still shows, d does not stand in the part"
    )
    assert made.boxes[1] == other.boxes[0]
    assert (one.pixels_HWC == 100).all(), "what it was made of stays as it was"


@settings(max_examples=60)
@given(painted(), painted(), st.data())
def test_a_pasted_part_brings_its_boxes_along(one: Seen, other: Seen, data: st.DataObject) -> None:
    one = Seen(one.pixels_HWC, (replace(one.boxes[0], label="own"),))
    other = Seen(np.zeros_like(one.pixels_HWC), cut(other.boxes, 0, 0, one.width, one.height))
    left, top = data.draw(st.integers(0, one.width - 1)), data.draw(st.integers(0, one.height - 1))
    made = cut_mixed(one, other, left, top, data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30)))
    assert made.pixels_HWC.shape == one.pixels_HWC.shape and 0 <= made.weight < 1
    for box in made.boxes:
        assert box.x >= 0 and box.y >= 0 and box.x + box.width <= made.width and box.y + box.height <= made.height
    white = np.argwhere(made.pixels_HWC[..., 0] > 0)
    shows = len(white) / (one.boxes[0].width * one.boxes[0].height)
    if shows < VISIBLE - 1e-12:
        assert [box for box in made.boxes if box.label == "own"] == []
        return
    (own,) = (box for box in made.boxes if box.label == "own")
    (y, x), (bottom, right) = white.min(axis=0), white.max(axis=0) + 1
    assert (own.x, own.y, own.x + own.width, own.y + own.height) == (x, y, right, bottom), "around what still shows"


def tone(seconds: float = 1.0, hertz: float = 400.0, rate: int = 8000) -> NDArray[np.float32]:
    times = np.arange(round(seconds * rate)) / rate
    return np.stack([np.sin(2 * np.pi * hertz * times), np.zeros_like(times)], axis=1).astype(np.float32) * np.float32(
        0.3
    )


@pytest.mark.parametrize("decibels", [0.0, 10.0, 20.0])
def test_noise_stands_so_far_below_the_sound(decibels: float) -> None:
    sound = tone(4.0)
    noise = with_noise(sound, decibels, np.random.default_rng(1)) - sound
    found = 10 * np.log10(np.mean(sound**2) / np.mean(noise**2))
    assert found == pytest.approx(decibels, abs=0.2)
    silence = np.zeros((100, 1), np.float32)
    np.testing.assert_array_equal(with_noise(silence, decibels, np.random.default_rng(1)), silence)


@given(st.integers(1, 50), st.integers(-70, 70))
def test_a_shift_leaves_silence_and_loses_only_what_leaves(count: int, by: int) -> None:
    sound = np.arange(1, count + 1, dtype=np.float32)[:, None]
    expected = [sound[place - by, 0] if 0 <= place - by < count else 0 for place in range(count)]
    np.testing.assert_array_equal(shifted(sound, by)[:, 0], expected)


@pytest.mark.parametrize("factor", [0.5, 1.25, 2.0])
def test_a_faster_sound_is_shorter_and_higher(factor: float) -> None:
    made = sped(tone(), factor)
    assert made.shape == (round(8000 / factor), 2) and made.dtype == np.float32
    loudest = np.abs(np.fft.rfft(made[:, 0])).argmax() * 8000 / len(made)
    assert loudest == pytest.approx(400 * factor, abs=3)
    np.testing.assert_array_equal(sped(tone(), 1.0), tone())


def test_masks_hide_bands_and_stretches_and_nothing_else() -> None:
    spectrum = np.random.default_rng(1).uniform(1, 2, (40, 60))
    for seed in range(30):
        made = masked(spectrum, 8, 10, np.random.default_rng(seed))
        hidden = made != spectrum
        assert (made[hidden] == spectrum.mean()).all()
        rows, columns = hidden.all(axis=1), hidden.all(axis=0)
        assert (hidden == (rows[:, None] | columns[None, :])).all()
        assert rows.sum() <= 8 and columns.sum() <= 10
    np.testing.assert_array_equal(masked(spectrum, 0, 0, np.random.default_rng(1)), spectrum)


def test_chance_depends_on_the_file_and_the_child_alone() -> None:
    def drawn(seed: int, method: str, sha256: str, child: int) -> float:
        return float(chance_of_media(seed, method, sha256, child).random())

    same = drawn(1, "flip", "ab" * 32, 0)
    assert same == drawn(1, "flip", "ab" * 32, 0)
    others = {drawn(2, "flip", "ab" * 32, 0), drawn(1, "turn", "ab" * 32, 0), drawn(1, "flip", "cd" * 32, 0)}
    assert len(others | {same, drawn(1, "flip", "ab" * 32, 1)}) == 5
