"""Graded faults of production and performance, for the demo's simulated listeners.

Every fault has a strength from 0 (the clip itself) to 1 (nobody would keep it) and draws whatever
it draws from its own seed, so the same fault is the same samples again. The result is as loud as
the clip it came from and never beyond full scale, because loudness must not tell which of two
clips was degraded.

Shapes: clips (channels, samples), here called x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage, signal

from ttmpref.loudness import integrated_loudness
from ttmpref.types import Clip

PEAK = 0.999
ROUNDS = 8  # of gain and limiter
NEAR_DB = 0.1
LIMITER_SECONDS = 0.005
QUIETEST = 1e-9
HUM_HERTZ = 50.0
HUM_HARMONICS = 6
BLOCK_SECONDS = 0.25  # of the faults that come and go
Fault = Callable[[np.ndarray, int, float, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Degradation:
    """One fault.

    Attributes:
        kind: one of `KINDS`.
        strength: 0 to 1.
        seed: of everything random in it.
    """

    kind: str
    strength: float
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise ValueError(f"degradation is {self.kind!r}; accepted: {', '.join(FAULTS)}")
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"strength is {self.strength!r}; it must lie in 0 to 1")


def degrade(clip: Clip, degradation: Degradation) -> Clip:
    """The clip with a fault, as loud as before; the clip itself at strength 0 or in silence."""
    if degradation.strength == 0.0 or not clip.waveform.any():
        return clip
    x = clip.waveform.astype(np.float64)
    rng = np.random.default_rng(degradation.seed)
    faulty = FAULTS[degradation.kind](x, clip.sample_rate, degradation.strength, rng)
    return as_loud(Clip(faulty.astype(np.float32), clip.sample_rate), clip)


def as_loud(made: Clip, clip: Clip) -> Clip:
    """What was made of a clip, at the clip's integrated loudness (BS.1770) and under full scale.

    Louder and limited in turns: a fault may leave peaks that full scale has no room for, and
    turning it all down instead would tell a degraded clip by its level.
    """
    x, rate = made.waveform.astype(np.float64), made.sample_rate
    wanted = _level_db(clip.waveform, clip.sample_rate)
    missing = wanted - _level_db(x, rate)
    for _ in range(ROUNDS):
        louder = x * 10 ** (missing / 20)
        x = _limited(louder, rate)
        if x is louder:
            break
        missing = wanted - _level_db(x, rate)
        if missing < NEAR_DB:
            break
    return Clip(x.astype(np.float32), rate)


def _level_db(x: np.ndarray, rate: int) -> float:
    """Loudness, or the mean square where loudness is not defined."""
    lufs = integrated_loudness(Clip(x.astype(np.float32), rate))
    return 20 * np.log10(max(_rms(x), QUIETEST)) if lufs is None else lufs


def _limited(x: np.ndarray, rate: int) -> np.ndarray:
    """Peaks brought under full scale by a gain that has arrived before they do."""
    envelope = np.abs(x).max(0)
    if envelope.max() <= PEAK:
        return x
    half = max(1, round(LIMITER_SECONDS * rate / 2))
    gain = PEAK / np.maximum(envelope, PEAK)
    gain = ndimage.minimum_filter1d(gain, 4 * half + 1, mode="nearest")
    for _ in range(2):
        gain = ndimage.uniform_filter1d(gain, 2 * half + 1, mode="nearest")
    return x * gain


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.square(x).mean()))


def _geometric(low: float, high: float, strength: float) -> float:
    """From `low` at strength 0 to `high` at strength 1, evenly in ratio."""
    return low * (high / low) ** strength


def _hiss(x: np.ndarray, rate: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """White noise, from 55 dB under the music to 5 dB under it."""
    noise = rng.standard_normal(x.shape[1], dtype=np.float32)
    return x + _rms(x) * 10 ** (_between(-55.0, -5.0, strength) / 20) * noise


def _hum(x: np.ndarray, rate: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Mains hum and its harmonics, from 50 dB under the music to as loud as it."""
    phase = 2 * np.pi * HUM_HERTZ * np.arange(x.shape[1], dtype=np.float32) / rate
    hum = sum(np.sin(k * phase + rng.uniform(0, 6.28)) / k for k in range(1, HUM_HARMONICS + 1))
    return x + _rms(x) * 10 ** (_between(-50.0, 0.0, strength) / 20) * hum / _rms(hum)


def _clipping(x: np.ndarray, rate: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Hard limit, from the peak itself down to a twentieth of it."""
    limit = np.abs(x).max() * _geometric(1.0, 0.05, strength)
    return x.clip(-limit, limit)


def _mud(x: np.ndarray, rate: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Nothing above a corner that falls from 16 kHz to 500 Hz."""
    return _filtered(x, rate, _geometric(16_000.0, 500.0, strength), "lowpass")


def _thinness(x: np.ndarray, rate: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Nothing below a corner that rises from 30 Hz to 1.5 kHz."""
    return _filtered(x, rate, _geometric(30.0, 1_500.0, strength), "highpass")


def _wow(x: np.ndarray, rate: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Pitch that sways by up to a semitone each way, about once a second."""
    hertz, start = rng.uniform(0.6, 1.6), rng.uniform(0, 2 * np.pi)
    ratio = 2 ** (_geometric(3.0, 100.0, strength) / 1200) - 1  # largest change of speed
    samples = np.arange(x.shape[1])
    sway = ratio * rate / (2 * np.pi * hertz) * np.sin(2 * np.pi * hertz * samples / rate + start)
    return _read_at(x, samples + sway)


def _slop(x: np.ndarray, rate: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Timing that hurries and drags: quarter seconds begin up to 90 ms early or late."""
    count = max(2, round(x.shape[1] / rate / BLOCK_SECONDS))
    shifts = _geometric(4.0, 90.0, strength) / 1000 * rate * rng.uniform(-1, 1, count + 1)
    shifts[[0, -1]] = 0.0
    knots = np.linspace(0, x.shape[1] - 1, count + 1)
    # Time never runs backwards, however far two neighbours are apart.
    places = np.maximum.accumulate(np.clip(knots + shifts, 0, x.shape[1] - 1))
    return _read_at(x, np.interp(np.arange(x.shape[1]), knots, places))


def _dropouts(x: np.ndarray, rate: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Gaps of 20 to 120 ms, from one in five seconds to eight in one."""
    gaps = max(1, round(x.shape[1] / rate * _geometric(0.2, 8.0, strength)))
    kept = np.ones(x.shape[1])
    for start, length in zip(
        rng.integers(x.shape[1], size=gaps), rng.uniform(0.02, 0.12, gaps) * rate, strict=True
    ):
        kept[start : start + int(length)] = 0.0
    return x * signal.oaconvolve(kept, np.full(64, 1 / 64), mode="same")  # without clicks


def _wash(x: np.ndarray, rate: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A cavern: 3 s of reverberation, from a hint to almost nothing else."""
    time = np.arange(3 * rate) / rate
    tail = rng.standard_normal(len(time)) * 10 ** (-time)  # 60 dB in 3 s
    wet = signal.oaconvolve(x, tail[None] / np.linalg.norm(tail), axes=1)[:, : x.shape[1]]
    share = _geometric(0.03, 0.95, strength)
    return (1 - share) * x + share * wet


def _crushed(x: np.ndarray, rate: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Fewer bits, from 11 down to 2 for the loudest peak."""
    step = np.abs(x).max() / 2 ** (_between(11.0, 2.0, strength) - 1)
    return np.round(x / step) * step


def _levels(x: np.ndarray, rate: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A mix whose level jumps every quarter second, by up to 18 dB."""
    count = max(2, round(x.shape[1] / rate / BLOCK_SECONDS))
    decibels = _between(0.5, 18.0, strength) * rng.uniform(-1, 1, count)
    knots = np.linspace(0, x.shape[1] - 1, count)
    return x * 10 ** (np.interp(np.arange(x.shape[1]), knots, decibels) / 20)


def _detuned(x: np.ndarray, rate: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """The same music again beside itself, 4 to 70 cents sharp."""
    speed = 2 ** (_geometric(4.0, 70.0, strength) / 1200)
    sharp = _read_at(x, (np.arange(x.shape[1]) * speed) % (x.shape[1] - 1))
    return x + _geometric(0.2, 1.0, strength) * sharp


def _between(low: float, high: float, strength: float) -> float:
    return low + (high - low) * strength


def _filtered(x: np.ndarray, rate: int, hertz: float, kind: str) -> np.ndarray:
    """Fourth-order Butterworth magnitude, applied in the spectrum without phase."""
    size = fft.next_fast_len(x.shape[1], real=True)
    ratio = np.maximum(np.arange(size // 2 + 1), 1e-3) * rate / size / hertz
    exponent = 8 if kind == "lowpass" else -8
    gain = (1 + ratio**exponent) ** -0.5
    return fft.irfft(fft.rfft(x, size) * gain, size)[:, : x.shape[1]]


def _read_at(x: np.ndarray, places: np.ndarray) -> np.ndarray:
    """x at fractional sample numbers, linearly."""
    places = places.clip(0, x.shape[1] - 1.001)
    whole = places.astype(np.int64)
    rest = places - whole
    return x[:, whole] * (1 - rest) + x[:, whole + 1] * rest


FAULTS: dict[str, Fault] = {
    "hiss": _hiss,
    "hum": _hum,
    "clipping": _clipping,
    "mud": _mud,
    "thinness": _thinness,
    "wow": _wow,
    "slop": _slop,
    "dropouts": _dropouts,
    "wash": _wash,
    "crushed": _crushed,
    "levels": _levels,
    "detuned": _detuned,
}
KINDS = tuple(FAULTS)
