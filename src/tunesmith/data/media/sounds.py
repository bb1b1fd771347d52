"""What a sound's file holds: WAV by the standard library, the rest through soundfile, decoded whole, within limits."""

from __future__ import annotations

import hashlib
import io
import wave
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tunesmith.core.files import sha256_file
from tunesmith.core.types import Media
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.extras import needed

MOST_BYTES = 2**30
MOST_SECONDS = 6 * 3600
MOST_RATE = 768_000
MOST_CHANNELS = 64
_AT_ONCE = 2**16
"""Frames that stand in memory together."""
_NOT_PLAIN = "unknown format"
"""How the standard library begins its complaint about WAV files that hold no plain numbers."""
_SIGNS = ((b"RIFF", "wav"), (b"fLaC", "flac"), (b"OggS", "ogg"), (b"ID3", "mp3"))
_LOUDEST = 2**15
"""What a number of 16 bits counts a full sound as."""

Source = Path | bytes


def look_at_sound(source: Source, name: str) -> Media:
    """The sound in a file or in its bytes. All of it is decoded, so that a file that was cut is noticed.

    Raises RowDefect: media_too_large, media_broken. Errors: data.extra_missing.
    """
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size > MOST_BYTES:
        raise RowDefect("media_too_large")
    form = form_of_sound(source) if isinstance(source, bytes) else source.suffix.lower().lstrip(".")
    if not form:
        raise RowDefect("media_broken")
    measured = _plain_wave(source) if form == "wav" else None
    frames, rate, channels = measured or _through_soundfile(source, form)
    digest = hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else sha256_file(source)
    return Media(name, digest, size, form, seconds=frames / rate, sample_rate=rate, channels=channels)


def form_of_sound(content: bytes) -> str:
    """Which of the forms that are read a file begins like; "" for none."""
    named = next((form for sign, form in _SIGNS if content.startswith(sign)), "")
    bare_mp3 = len(content) > 1 and content[0] == 0xFF and content[1] & 0xE0 == 0xE0  # a frame without a heading
    return named or ("mp3" if bare_mp3 else "")


def _check(frames: int, rate: int, channels: int) -> None:
    if rate > MOST_RATE or channels > MOST_CHANNELS or frames > MOST_SECONDS * rate:
        raise RowDefect("media_too_large")
    if rate < 1 or channels < 1 or frames < 1:
        raise RowDefect("media_broken")


def _opened(source: Source) -> str | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else str(source)


def _plain_wave(source: Source) -> tuple[int, int, int] | None:
    """Frames, frames a second and channels; None for a WAV file of another kind than plain numbers."""
    try:
        with wave.open(_opened(source), "rb") as sound:
            frames, rate, channels = sound.getnframes(), sound.getframerate(), sound.getnchannels()
            _check(frames, rate, channels)
            width, read = channels * sound.getsampwidth(), 0
            while block := sound.readframes(_AT_ONCE):
                read += len(block)
    except wave.Error as error:
        if str(error).startswith(_NOT_PLAIN):
            return None
        raise RowDefect("media_broken") from None
    except (EOFError, OSError, ValueError, RuntimeError):
        raise RowDefect("media_broken") from None
    if read != frames * width:
        raise RowDefect("media_broken")
    return frames, rate, channels


def _through_soundfile(source: Source, form: str) -> tuple[int, int, int]:
    library = needed("soundfile", "media", f".{form}")
    try:
        with library.SoundFile(_opened(source)) as sound:
            frames, rate, channels = int(sound.frames), int(sound.samplerate), int(sound.channels)
            _check(frames, rate, channels)
            read = 0
            while len(block := sound.read(_AT_ONCE, dtype="float32")):
                if not np.isfinite(block).all():  # files of floating point numbers can say that they know no number
                    raise RowDefect("media_broken")
                read += len(block)
    except (library.LibsndfileError, RuntimeError, OSError, ValueError):
        raise RowDefect("media_broken") from None
    if read != frames:
        raise RowDefect("media_broken")
    return frames, rate, channels


def samples_of(source: Source) -> tuple[NDArray[np.float32], int]:
    """The samples of a sound that was looked at, [frames, channels] between -1 and 1, and how many a second.

    Errors: data.extra_missing; wave.Error and those of soundfile where the file was changed since.
    """
    form = form_of_sound(source) if isinstance(source, bytes) else source.suffix.lower().lstrip(".")
    if form == "wav" and _plain_wave(source) is not None:
        with wave.open(_opened(source), "rb") as sound:
            content, width = sound.readframes(sound.getnframes()), sound.getsampwidth()
            return _numbers(content, width).reshape(-1, sound.getnchannels()), sound.getframerate()
    library = needed("soundfile", "media", f".{form}")
    read, rate = library.read(_opened(source), dtype="float32", always_2d=True)
    # Floating point numbers may be louder than a loudspeaker goes.
    return cast(NDArray[np.float32], np.clip(read, -1, 1)), int(rate)


def as_wave(samples_NC: NDArray[np.float32], rate: int) -> bytes:
    """The WAV file of samples between -1 and 1, as numbers of 16 bits: those that came from such numbers come back."""
    whole_NC = np.clip(np.rint(samples_NC.astype(np.float64) * _LOUDEST), -_LOUDEST, _LOUDEST - 1).astype("<i2")
    content = io.BytesIO()
    with wave.open(content, "wb") as sound:
        sound.setnchannels(samples_NC.shape[1])
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(whole_NC.tobytes())
    return content.getvalue()


def _numbers(content: bytes, width: int) -> NDArray[np.float32]:
    """Plain WAV numbers of some bytes as parts of the loudest one; those of one byte have no sign.

    Of more than four bytes the highest four count: float32 holds no more.
    """
    if width == 1:
        return (np.frombuffer(content, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
    padded, high = np.zeros((len(content) // width, 4), np.uint8), min(width, 4)
    bytes_NW = np.frombuffer(content, np.uint8).reshape(-1, width)  # little end first: the low bytes
    padded[:, 4 - high :] = bytes_NW[:, width - high :]
    whole: NDArray[np.float32] = (padded.view("<i4")[:, 0] / 2**31).astype(np.float32)
    return whole
