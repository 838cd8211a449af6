"""Clips of one prompt made alike in everything that is not music.

Specification of listening studies, sections 2.2, 5 and 7.2 (check 14). All clips of a prompt get
the study's rate, channels and number of frames, start at their first audible moment and end in the
same one, and sound equally loud. Loudness is set by gain alone, never by a limiter, which would
change the sound under test: where a peak would pass the ceiling, the target of the *whole prompt*
is lowered by one common gain until it fits.

Shapes: a `Clip` is (channels, samples).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ttmpref.audio import cut_or_pad, encode_clip, resample
from ttmpref.loudness import (
    BLOCK_SECONDS,
    NO_LOUDNESS,
    PEAK_MARGIN_DB,
    integrated_loudness,
    true_peak_db,
)
from ttmpref.study.definition import Audio
from ttmpref.study.errors import BuildError
from ttmpref.types import Clip

HEADER_BYTES = 44  # RIFF, fmt and data chunk of plain 16-bit PCM, and nothing else
WINDOW_SECONDS = 0.01  # of the level that decides what is audible
AUDIBLE_DB = -60.0  # below the loudest window
END_WINDOWS = 3  # clips end within so many windows of sound
FADE_SECONDS = 0.02
MAX_SILENCE_DIFFERENCE_MS = 50.0
MAX_DC = 1e-3
BANDWIDTH_DB = -70.0  # below the strongest bin of the mean spectrum
SPECTRUM_SIZE = 4096
DEGRADED_CUTOFF_HZ = 3_500.0
DEGRADED_NOISE_DB = -14.0  # relative to the low-passed music


@dataclass(frozen=True)
class Measures:
    """What a delivered clip measures, in the units of the names.

    Attributes:
        lufs_in: loudness before the gain, of what is delivered.
        target_lufs: the study's target less the prompt's common gain.
        dc: largest mean of a channel, of a full scale of 1.
        lead_ms, tail_ms: silence before the first and after the last audible moment.
        music_ms: between them.
    """

    lufs_in: float
    lufs_out: float
    target_lufs: float
    gain_db: float
    true_peak_dbtp: float
    crest_db: float
    dc: float
    lead_ms: float
    tail_ms: float
    music_ms: float
    bandwidth_hz: float


@dataclass(frozen=True, eq=False)
class Rendered:
    """One delivered clip: the bytes of its file, what they measure, and what is wrong with them."""

    data: bytes
    measures: Measures
    faults: tuple[str, ...]


def render_prompt(sources: Mapping[str, Clip], audio: Audio) -> dict[str, Rendered]:
    """All clips of one prompt in the canonical form.

    Args:
        sources: clip of each key, of any rate, length and number of channels.

    Raises:
        BuildError: a clip is silent, or too short or too quiet to have a loudness; names its key.
    """
    frames = round(audio.seconds * audio.sample_rate)
    silence = round(audio.pad_ms * audio.sample_rate / 1000)
    begun = {key: _from_first_sound(key, _canonical(clip, audio)) for key, clip in sources.items()}
    stop = _common_end([clip.waveform[:, :frames] for clip in begun.values()], audio.sample_rate)
    cut = {
        key: _padded(cut_or_pad(_faded(_centred(cut_or_pad(clip, stop))), frames), silence)
        for key, clip in begun.items()
    }
    loudness = {key: _loudness(key, clip) for key, clip in cut.items()}
    target = _common_target(cut, loudness, audio)
    gains = {key: target - lufs for key, lufs in loudness.items()}
    files = {key: encode_clip(_louder(clip, gains[key]), ".wav") for key, clip in cut.items()}
    measures = {
        key: _measures(delivered_clip(data, audio), loudness[key], target, gains[key])
        for key, data in files.items()
    }
    shared = _faults_of_prompt(measures, audio)
    return {
        key: Rendered(data, measures[key], (*_faults(data, measures[key], audio), *shared))
        for key, data in files.items()
    }


def degraded(clip: Clip, seed: int) -> Clip:
    """The clip through a telephone and under noise: what nobody who listens can prefer."""
    from scipy.signal import butter, sosfiltfilt

    cutoff = min(DEGRADED_CUTOFF_HZ, 0.45 * clip.sample_rate)
    muffled = sosfiltfilt(butter(4, cutoff, fs=clip.sample_rate, output="sos"), clip.waveform)
    level = np.sqrt(np.square(muffled).mean()) * 10 ** (DEGRADED_NOISE_DB / 20)
    noise = np.random.default_rng(seed).standard_normal(muffled.shape) * level
    return Clip((muffled + noise).astype(np.float32), clip.sample_rate)


def _canonical(clip: Clip, audio: Audio) -> Clip:
    """The clip in the study's channels and rate, without the DC that would pass for sound.

    It is taken out first: resampling makes clicks of it where the clip begins and ends.
    """
    if clip.channels != audio.channels:
        waveform = np.repeat(clip.mono[None], audio.channels, axis=0)
        clip = Clip(waveform, clip.sample_rate)
    return resample(_centred(clip), audio.sample_rate)


def _centred(clip: Clip) -> Clip:
    mean = clip.waveform.mean(1, keepdims=True, dtype=np.float64)
    return Clip(clip.waveform - mean.astype(np.float32), clip.sample_rate)


def _levels(waveform: np.ndarray, sample_rate: int) -> tuple[np.ndarray, int]:
    """Power of consecutive windows of (channels, samples), and samples per window."""
    size = round(WINDOW_SECONDS * sample_rate)
    power = np.square(waveform.astype(np.float64)).mean(0)
    return np.add.reduceat(power, np.arange(0, len(power), size)), size


def _audible(levels: np.ndarray) -> np.ndarray:
    """Which windows are not silence; none of them where all is digital silence."""
    loudest = levels.max()
    return levels > loudest * 10 ** (AUDIBLE_DB / 10)


def audible_span(waveform: np.ndarray, sample_rate: int) -> tuple[int, int] | None:
    """First and one past the last sample (on a grid of 10 ms) that is not silence.

    Args:
        waveform: (channels, samples), at least one sample.

    Returns:
        None where all is digital silence.
    """
    levels, size = _levels(waveform, sample_rate)
    audible = np.flatnonzero(_audible(levels))
    if len(audible) == 0:
        return None
    return int(audible[0] * size), int(min(waveform.shape[1], (audible[-1] + 1) * size))


def _from_first_sound(key: str, clip: Clip) -> Clip:
    span = audible_span(clip.waveform, clip.sample_rate)
    if span is None:
        raise BuildError(f"{key}: the clip is silent; replace it, or leave its prompt out")
    begun = Clip(clip.waveform[:, span[0] :], clip.sample_rate)
    if begun.seconds < BLOCK_SECONDS:
        raise BuildError(
            f"{key}: holds {begun.seconds:.2f} s of sound, and less than {BLOCK_SECONDS:g} s have "
            "no loudness; replace it, or leave its prompt out"
        )
    return begun


def _common_end(waveforms: Sequence[np.ndarray], sample_rate: int) -> int:
    """The last sample up to which every clip of a prompt sounds.

    Cutting all clips at the end of the shortest may hit a rest of another, which would then end in
    silence: the end is the last window that lies within `END_WINDOWS` of sound in every clip.
    """
    windows = [_levels(waveform, sample_rate) for waveform in waveforms]
    count = min(len(levels) for levels, _ in windows)
    sounding = np.ones(count, bool)
    for levels, _ in windows:
        near = np.convolve(_audible(levels), np.ones(END_WINDOWS))  # sound now or just before
        sounding &= near[:count] > 0
    last = np.flatnonzero(sounding)
    samples = min(waveform.shape[1] for waveform in waveforms)
    return min(samples, (int(last[-1]) + 1) * windows[0][1]) if len(last) else samples


def _faded(clip: Clip) -> Clip:
    """The clip with a raised-cosine end, so that it does not stop with a click."""
    waveform = clip.waveform.copy()
    count = min(clip.samples, round(FADE_SECONDS * clip.sample_rate))
    ramp = 0.5 + 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / count)
    waveform[:, clip.samples - count :] *= ramp.astype(np.float32)
    return Clip(waveform, clip.sample_rate)


def _padded(clip: Clip, silence: int) -> Clip:
    """The clip between `silence` zero samples on each side."""
    return Clip(np.pad(clip.waveform, ((0, 0), (silence, silence))), clip.sample_rate)


def _louder(clip: Clip, gain_db: float) -> Clip:
    return Clip(clip.waveform * np.float32(10 ** (gain_db / 20)), clip.sample_rate)


def _loudness(key: str, clip: Clip) -> float:
    lufs = integrated_loudness(clip)
    if lufs is None:
        raise BuildError(f"{key}: {NO_LOUDNESS}; replace the clip, or leave its prompt out")
    return lufs


def _common_target(
    clips: Mapping[str, Clip], loudness: Mapping[str, float], audio: Audio
) -> float:
    """The study's target, lowered until the spikiest clip of the prompt fits under the ceiling."""
    ceiling = audio.true_peak_dbtp - PEAK_MARGIN_DB
    peaks = {key: true_peak_db(clip) or ceiling for key, clip in clips.items()}
    highest = max(peaks[key] - loudness[key] for key in clips)
    return min(audio.loudness_lufs, ceiling - highest)


def delivered_clip(data: bytes, audio: Audio) -> Clip:
    """The samples of a canonical file."""
    samples = np.frombuffer(data[HEADER_BYTES:], "<i2").reshape(-1, audio.channels).T
    return Clip(np.ascontiguousarray(samples / np.float32(32768)), audio.sample_rate)


def _measures(clip: Clip, lufs_in: float, target: float, gain_db: float) -> Measures:
    start, stop = audible_span(clip.waveform, clip.sample_rate) or (0, 0)
    milliseconds = 1000 / clip.sample_rate
    peak = true_peak_db(clip) or -np.inf
    level = 10 * np.log10(np.square(clip.waveform.astype(np.float64)).mean())
    values = Measures(
        lufs_in=lufs_in,
        lufs_out=integrated_loudness(clip) or -np.inf,
        target_lufs=target,
        gain_db=gain_db,
        true_peak_dbtp=peak,
        crest_db=peak - level,
        dc=float(np.abs(clip.waveform.mean(1, dtype=np.float64)).max()),
        lead_ms=start * milliseconds,
        tail_ms=(clip.samples - stop) * milliseconds,
        music_ms=(stop - start) * milliseconds,
        bandwidth_hz=bandwidth_hz(clip),
    )
    rounded = {name: round(float(value), 6) for name, value in vars(values).items()}
    return Measures(**rounded)


def bandwidth_hz(clip: Clip) -> float:
    """Highest frequency of the mean spectrum within 70 dB of its strongest bin."""
    mono = np.pad(clip.mono, (0, max(0, SPECTRUM_SIZE - clip.samples)))
    frames = np.lib.stride_tricks.sliding_window_view(mono, SPECTRUM_SIZE)[:: SPECTRUM_SIZE // 2]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(SPECTRUM_SIZE)))).mean(0)
    strong = np.flatnonzero(power > power.max() * 10 ** (BANDWIDTH_DB / 10))
    return float(strong[-1] * clip.sample_rate / SPECTRUM_SIZE) if len(strong) else 0.0


def _faults(data: bytes, measured: Measures, audio: Audio) -> list[str]:
    """What is wrong with one delivered file, in words."""
    frames = round(audio.seconds * audio.sample_rate)
    frames += 2 * round(audio.pad_ms * audio.sample_rate / 1000)
    expected = HEADER_BYTES + 2 * audio.channels * frames
    dropped = audio.loudness_lufs - measured.target_lufs
    off = abs(measured.lufs_out - measured.target_lufs)
    checks = (
        (len(data) != expected, f"has {len(data)} bytes, not {expected}"),
        (off > audio.max_loudness_error_lu, f"is {off:.2f} LU off its target"),
        (dropped > audio.max_target_drop_lu, f"too spiky: the target had to fall {dropped:.1f} LU"),
        (measured.true_peak_dbtp > audio.true_peak_dbtp,
         f"peaks at {measured.true_peak_dbtp:.2f} dBTP"),
        (measured.dc > MAX_DC, f"has a DC offset of {measured.dc:.4f}"),
        (measured.music_ms < 1000 * audio.min_seconds,
         f"holds {measured.music_ms / 1000:.2f} s of music, not {audio.min_seconds:g} s"),
    )  # fmt: skip
    return [words for wrong, words in checks if wrong]


def _faults_of_prompt(measures: Mapping[str, Measures], audio: Audio) -> list[str]:
    """In what the clips of one prompt differ that they should share."""
    limits = {
        "lufs_out": (audio.max_loudness_error_lu, "LU of loudness"),
        "lead_ms": (MAX_SILENCE_DIFFERENCE_MS, "ms of silence before"),
        "tail_ms": (MAX_SILENCE_DIFFERENCE_MS, "ms of silence after"),
    }
    faults = []
    for name, (limit, words) in limits.items():
        values = [getattr(measured, name) for measured in measures.values()]
        if max(values) - min(values) > limit:
            faults.append(f"clips of its prompt differ by {max(values) - min(values):.2f} {words}")
    return faults
