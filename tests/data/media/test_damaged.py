"""Files of pictures and sounds that are damaged or odd: read alike everywhere, or refused by name."""

from __future__ import annotations

import io
import random
import struct
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tunesmith.core.errors import TunesmithError
from tunesmith.data.defects import RowDefect
from tunesmith.data.media.drawn import drawing_of
from tunesmith.data.media.images import look_at_image, pixels_of
from tunesmith.data.media.sounds import look_at_sound, samples_of


def wave_file(form: int, bits: int, content: bytes, rate: int = 8000, channels: int = 1) -> bytes:
    block = channels * bits // 8
    head = struct.pack("<HHIIHH", form, channels, rate, rate * block, block, bits)
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(body)) + body


def photo_file(form: str, mode: str = "RGB", progressive: bool = False) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (24, 31, 3), np.uint8)
    facts = Image.Exif()
    facts[0x0112], facts[0x010F], facts[0x8769] = 6, "maker", {0x9003: "2020:01:01 00:00:00", 0x829A: (1, 3)}
    content = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(content, form, exif=facts.tobytes(), progressive=progressive)
    return content.getvalue()


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A file with a part cut off, put in, taken out or written over."""
    changed, place = bytearray(content), chance.randrange(len(content))
    match chance.randrange(5):
        case 0:
            del changed[place:]
        case 1:
            for _ in range(chance.randrange(1, 6)):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
        case 2:
            for _ in range(chance.randrange(1, 4)):
                changed[chance.randrange(min(len(changed), 160))] = chance.choice([0, 127, 128, 255])
        case 3:
            changed[place:place] = chance.randbytes(chance.randrange(1, 20))
        case _:
            del changed[place : place + chance.randrange(1, 40)]
    return bytes(changed)


@pytest.mark.parametrize("width", [5, 8])
def test_wider_numbers_than_float32_holds_are_read_by_their_high_bytes(width: int) -> None:
    level = np.sin(np.arange(400) / 9) * 0.5
    whole = np.rint(level * 2.0 ** (8 * width - 1)).astype(np.int64)
    content = b"".join(int(each).to_bytes(width, "little", signed=True) for each in whole)
    file = wave_file(1, 8 * width, content)
    assert look_at_sound(file, "a.wav").seconds == 400 / 8000
    np.testing.assert_allclose(samples_of(file)[0][:, 0], level, atol=1e-7)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_floating_sounds_are_cut_at_the_loudest_and_those_without_numbers_are_refused(odd: float) -> None:
    pytest.importorskip("soundfile")
    level = np.sin(np.arange(400) / 9) * 2
    content = wave_file(3, 64, level.astype("<f8").tobytes())
    look_at_sound(content, "a.wav")
    assert np.abs(samples_of(content)[0]).max() == 1
    level[7] = odd
    with pytest.raises(RowDefect, match="media_broken"):
        look_at_sound(wave_file(3, 64, level.astype("<f8").tobytes()), "a.wav")


def test_damaged_files_are_refused_by_name_or_read_alike_everywhere() -> None:
    """What is looked at without a complaint can also be decoded, drawn and changed: none of it ends in a traceback."""
    chance, level = random.Random(3), np.sin(np.arange(400) / 9) * 0.5
    pictures = [photo_file("JPEG"), photo_file("JPEG", "CMYK"), photo_file("PNG"), photo_file("PNG", "P")]
    pictures += [photo_file("JPEG", progressive=True), photo_file("WEBP")]
    sounds = [
        wave_file(1, bits, (level * 2.0 ** (bits - 1)).astype(f"<i{bits // 8}").tobytes()) for bits in (16, 32, 64)
    ]
    sounds += [wave_file(3, 64, level.astype("<f8").tobytes()), wave_file(1, 24, b"\x01\x02\x03" * 400)]
    read, refused = 0, Counter[str]()
    for _ in range(80):
        for content in (*pictures, *sounds):
            content = mutated(content, chance)
            try:
                if content[:4] == b"RIFF" and content[8:12] == b"WAVE":
                    media = look_at_sound(content, "a")
                    samples_NC, rate = samples_of(content)
                    assert samples_NC.shape[1] == media.channels and len(samples_NC) / rate == media.seconds
                    assert np.abs(samples_NC).max() <= 1
                else:
                    media = look_at_image(content, "a")
                    pixels_HWC = pixels_of(content)
                    assert pixels_HWC is None or pixels_HWC.shape == (media.height, media.width, 3)
                drawing_of(content, media, ())
                read += 1
            except RowDefect as defect:
                refused[defect.reason] += 1
            except TunesmithError as error:
                assert error.code == "data.extra_missing"
    assert read > 50 and refused["media_broken"] > 200
