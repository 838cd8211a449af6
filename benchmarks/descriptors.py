"""Simple measurements of how music moves: onsets, pulse, pitch classes, noisiness, loudness.

None of them needs a trained model, so they can neither flatter a model nor be fooled by one.
All take a mono clip; S samples.
"""

from __future__ import annotations

import numpy as np

from ttmpref.types import Clip

SIZE, HOP = 2048, 512
CHROMA_SIZE = 8192
CHROMA_RANGE = (65.0, 2100.0)  # Hz, C2 to C7
PULSE_RANGE = (0.25, 2.0)  # s between beats, 240 to 30 BPM
BLOCK_SECONDS = 0.4
SILENCE_DB = -60.0
ONSET_WINDOW = 7  # frames on each side within which an onset is the largest
ONSET_THRESHOLD = 1.5  # times the clip's mean onset strength


def describe(clip: Clip) -> dict[str, float]:
    """All descriptors of a clip, NaN where silence leaves nothing to measure."""
    power = _power(clip.mono, SIZE, HOP)
    strength = onset_strength(power)
    frame_rate = clip.sample_rate / HOP
    quiet, loud = loudness_spread(clip)
    return {
        "onset rate": onset_rate(strength, frame_rate),
        "tempo clarity": tempo_clarity(strength, frame_rate),
        "pitch-class entropy": pitch_class_entropy(clip),
        "spectral flatness": spectral_flatness(power),
        "level of quiet moments": quiet,
        "level of loud moments": loud,
    }


UNITS = {
    "onset rate": "per s",
    "tempo clarity": "",
    "pitch-class entropy": "bit",
    "spectral flatness": "dB",
    "level of quiet moments": "dB",
    "level of loud moments": "dB",
}


def _power(mono: np.ndarray, size: int, hop: int) -> np.ndarray:
    """(frames, size // 2 + 1) power spectra under a Hann window."""
    padded = np.pad(mono, (0, max(0, size - len(mono))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    return np.abs(np.fft.rfft(frames * np.hanning(size).astype(np.float32))) ** 2


def onset_strength(power: np.ndarray) -> np.ndarray:
    """(frames,) mean rise in dB from one frame to the next, over bins within 60 dB of the peak."""
    level = 10.0 * np.log10(np.maximum(power, power.max() * 1e-6 + 1e-12))
    rise = np.maximum(0.0, np.diff(level, axis=0, prepend=level[:1]))
    return rise.mean(1)


def onset_rate(strength: np.ndarray, frame_rate: float) -> float:
    """Onsets per second: local maxima of the strength well above the clip's mean."""
    reach = 2 * ONSET_WINDOW + 1
    padded = np.pad(strength, ONSET_WINDOW, mode="edge")
    largest = np.lib.stride_tricks.sliding_window_view(padded, reach).max(1)
    onsets = (strength == largest) & (strength > ONSET_THRESHOLD * strength.mean())
    return float(onsets.sum() / (len(strength) / frame_rate))


def tempo_clarity(strength: np.ndarray, frame_rate: float) -> float:
    """Highest autocorrelation of the strength at a lag of 0.25 to 2 s; 1 is a perfect pulse."""
    centred = strength - strength.mean()
    energy = np.square(centred).sum()
    if energy == 0.0:
        return 0.0
    frames = len(centred)
    first, last = (round(seconds * frame_rate) for seconds in PULSE_RANGE)
    last = min(last, frames - 1)
    correlation = np.correlate(centred, centred, "full")[frames - 1 :]
    lags = np.arange(first, last + 1)
    if len(lags) == 0:
        return 0.0
    unbiased = correlation[lags] * frames / (frames - lags) / energy
    return float(np.clip(unbiased.max(), 0.0, 1.0))


def pitch_class_entropy(clip: Clip) -> float:
    """Entropy of the energy over the 12 pitch classes; 0 for one note, log2 12 = 3.58 for noise.

    Only spectral peaks count, so that the width of a partial is not mistaken for neighbours.
    """
    power = _power(clip.mono, CHROMA_SIZE, CHROMA_SIZE // 2)
    frequencies = np.fft.rfftfreq(CHROMA_SIZE, 1 / clip.sample_rate)
    middle = power[:, 1:-1]
    peaks = np.where((middle > power[:, :-2]) & (middle >= power[:, 2:]), middle, 0.0)
    frequencies = frequencies[1:-1]
    low, high = CHROMA_RANGE
    inside = (frequencies >= low) & (frequencies <= high)
    classes = np.round(12 * np.log2(frequencies[inside] / 440.0)).astype(int) % 12
    energy = np.sqrt(peaks[:, inside]).sum(0)  # amplitudes: a bass note does not outweigh a chord
    share = np.bincount(classes, energy, minlength=12)
    if share.sum() == 0.0:
        return float("nan")
    share = share[share > 0] / share.sum()
    return float(-(share * np.log2(share)).sum())


def spectral_flatness(power: np.ndarray) -> float:
    """Median over sounding frames of geometric over arithmetic mean power, dB; near 0 is noise."""
    mean = power.mean(1)
    sounding = power[mean > mean.max() * 10 ** (SILENCE_DB / 10)]
    if len(sounding) == 0:
        return float("nan")
    floor = np.maximum(sounding, 1e-12)
    flatness = np.log10(floor).mean(1) - np.log10(floor.mean(1))
    return float(10.0 * np.median(flatness))


def loudness_spread(clip: Clip) -> tuple[float, float]:
    """10th and 90th percentile of the level of 0.4 s blocks, dB relative to the whole clip.

    Relative, because finished clips are all brought to one loudness.
    """
    block = round(BLOCK_SECONDS * clip.sample_rate)
    count = max(1, clip.samples // block)
    power = np.square(clip.mono[: count * block].reshape(count, -1)).mean(1)
    if power.mean() == 0.0:
        return float("nan"), float("nan")
    level = 10.0 * np.log10(np.maximum(power / power.mean(), 1e-6))
    low, high = np.percentile(level, [10, 90])
    return float(low), float(high)
