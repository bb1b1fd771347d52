"""Sounds made from others: pure functions; chance is handed in.

Shape letters: N samples, C channels, F frequencies, T times. Samples are [N, C] float32 between -1 and 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import istft, stft

from tunesmith.core.seed import derive_seed

Samples = NDArray[np.float32]
_WINDOW, _STEP = 0.025, 0.010
"""Seconds that one spectrum looks at, and from one to the next: those of the paper."""


def chance_of_media(seed: int, method: str, sha256: str, child: int) -> np.random.Generator:
    """Chance that depends on the seed, the method, the file itself and the child's number, not on other rows."""
    return np.random.default_rng(derive_seed(seed, f"augment {method}", int(sha256[:14], 16), child))


def with_noise(samples_NC: Samples, decibels: float, chance: np.random.Generator) -> Samples:
    """White noise beside the sound, so many decibels below it in power. Silence stays silence."""
    power = float(np.mean(np.square(samples_NC, dtype=np.float64)))
    deviation = np.sqrt(power / 10 ** (decibels / 10))
    noise_NC = chance.standard_normal(samples_NC.shape) * deviation
    noisy_NC: Samples = np.clip(samples_NC + noise_NC, -1, 1).astype(np.float32)
    return noisy_NC


def shifted(samples_NC: Samples, samples: int) -> Samples:
    """The sound that many samples later (earlier below 0), with silence in place of what is not there."""
    moved_NC = np.zeros_like(samples_NC)
    count = len(samples_NC) - abs(samples)
    if count > 0:
        begin, origin = max(samples, 0), max(-samples, 0)
        moved_NC[begin : begin + count] = samples_NC[origin : origin + count]
    return moved_NC


def sped(samples_NC: Samples, factor: float) -> Samples:
    """The sound played so many times as fast, [round(N / factor), C]: its pitch rises with it.

    Between samples a straight line is taken.
    """
    count = max(1, round(len(samples_NC) / factor))
    places = np.minimum(np.arange(count) * factor, len(samples_NC) - 1)
    known = np.arange(len(samples_NC))
    channels = [np.interp(places, known, channel) for channel in samples_NC.T]
    faster_NC: Samples = np.stack(channels, axis=1).astype(np.float32)
    return faster_NC


def masked(
    spectrum_FT: NDArray[np.floating],
    frequencies: int,
    times: int,
    chance: np.random.Generator,
    masks: int = 1,
    filling: float | None = None,
) -> NDArray[np.floating]:
    """A spectrogram with bands of frequencies and stretches of time set to its mean (SpecAugment, 1904.08779).

    Args:
        frequencies: widest band; each is as wide as chance says, from 0 on.
        times: longest stretch.
        masks: bands, and as many stretches.
        filling: what stands there instead of the mean.
    """
    masked_FT = spectrum_FT.copy()
    mean = spectrum_FT.mean() if filling is None else filling
    for axis, widest in ((0, frequencies), (1, times)):
        for _ in range(masks):
            width = int(chance.integers(0, min(widest, spectrum_FT.shape[axis]) + 1))
            first = int(chance.integers(0, spectrum_FT.shape[axis] - width + 1))
            hidden = slice(first, first + width)
            masked_FT[(hidden, slice(None)) if axis == 0 else (slice(None), hidden)] = mean
    return masked_FT


def silenced(
    samples_NC: Samples, rate: int, frequencies: float, times: float, chance: np.random.Generator, masks: int = 1
) -> Samples:
    """The sound itself with bands of frequencies and stretches of time silenced, [N, C]: SpecAugment to be heard.

    The sound becomes spectra (Hann, 25 ms, one each 10 ms), the masked parts of all channels 0, and the spectra a sound
    again. Spectra overlap, so that a stretch fades out and in at its ends.

    Args:
        rate: samples a second.
        frequencies: widest band, as a share of all frequencies; each is as wide as chance says, from 0 on.
        times: longest stretch, as a share of the length.
        masks: bands, and as many stretches.
    """
    if len(samples_NC) < 2:  # no spectrum has a stretch or a band
        return samples_NC
    window = min(max(2, round(_WINDOW * rate)), len(samples_NC))
    step = max(1, min(round(_STEP * rate), window // 2))
    sizes = {"fs": rate, "window": "hann", "nperseg": window, "noverlap": window - step}
    spectra_CFT = stft(samples_NC.T.astype(np.float64), **sizes)[2]
    heard_FT = np.ones(spectra_CFT.shape[1:])
    widest = (round(frequencies * heard_FT.shape[0]), round(times * heard_FT.shape[1]))
    heard_FT = masked(heard_FT, *widest, chance, masks, filling=0.0)
    sound_CN = istft(spectra_CFT * heard_FT, **sizes)[1][:, : len(samples_NC)]
    silenced_NC: Samples = np.clip(sound_CN.T, -1, 1).astype(np.float32)
    return silenced_NC
