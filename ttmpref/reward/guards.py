"""What a reward does not say by itself: guards that look at the clip (specification 3.2).

Digital silence outscores a third of real collections, so no reward is read without these flags.
Thresholds are conventions, stated here; each flag carries the measured value.

Shapes: S samples of one channel.
"""

from __future__ import annotations

import math

import numpy as np

from ttmpref.loudness import MAX_CHANNELS, integrated_loudness
from ttmpref.types import Clip, InvalidRequest, RewardFlag

SILENCE_DB = -60.0  # dBFS of a block's root mean square
BLOCK_SECONDS = 0.1
MOSTLY = 0.5  # share of silent blocks
SHORT_SECONDS = 3.0
VERY_LONG_SECONDS = 300.0  # one segment of the released protocol
LOUDNESS_RANGE = (-36.0, -6.0)  # LUFS; music is published between
CLIPPED_RUN = 4  # neighbouring samples on one level, at the clip's own peak
CLIPPED_TOLERANCE = 1e-4  # of the peak
CLIPPED_SHARE = 1e-4
CANCELLATION_DB = 6.0  # lost by averaging the channels


def check_clip(clip: Clip) -> None:
    """Raise `InvalidRequest` for a clip that no reward is defined for."""
    if clip.samples == 0:
        raise InvalidRequest("the clip is empty; at least one sample is needed")
    if not np.isfinite(clip.waveform).all():
        raise InvalidRequest("the clip holds samples that are not finite numbers")


def loudness_of(clip: Clip) -> float | None:
    """LUFS; of the mono mix where there are more channels than the standard knows."""
    if clip.channels > MAX_CHANNELS:
        clip = Clip(clip.mono[None], clip.sample_rate)
    return integrated_loudness(clip)


def examine(clip: Clip, lufs: float | None, window_seconds: float) -> tuple[RewardFlag, ...]:
    """Flags of a clip, serious ones first.

    Args:
        lufs: its loudness (`loudness_of`).
        window_seconds: what CLAP hears at once.
    """
    flags = [
        *_silence(clip),
        *_clipping(clip),
        *_length(clip, window_seconds),
        *_channels(clip),
        *_loudness(lufs),
    ]
    return tuple(sorted(flags, key=lambda flag: not flag.serious))


def _silence(clip: Clip) -> list[RewardFlag]:
    size = max(1, round(BLOCK_SECONDS * clip.sample_rate))
    starts = np.arange(0, clip.samples, size)
    sums = np.add.reduceat(np.square(clip.mono, dtype=np.float64), starts)
    power = sums / np.diff(np.append(starts, clip.samples))
    share = float((power < 10 ** (SILENCE_DB / 10)).mean())
    if share == 1.0:
        return [RewardFlag("silent", f"silent: below {SILENCE_DB:g} dBFS throughout", True)]
    if share >= MOSTLY:
        return [RewardFlag("mostly_silent", f"silent for {share:.0%} of its length", True)]
    return []


def _clipping(clip: Clip) -> list[RewardFlag]:
    share = max(_clipped_share(channel) for channel in clip.waveform)
    if share < CLIPPED_SHARE:
        return []
    return [RewardFlag("clipped", f"clipped: {share:.2%} of the samples lie on its peak", True)]


def _clipped_share(channel: np.ndarray) -> float:
    """Share of samples in runs of CLIPPED_RUN or more on the channel's highest level."""
    peak = max(float(channel.max()), -float(channel.min()))
    if peak == 0.0:
        return 0.0
    top = np.abs(channel) >= peak * (1 - CLIPPED_TOLERANCE)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], top, [False]])))
    runs = edges[1::2] - edges[::2]
    return float(runs[runs >= CLIPPED_RUN].sum() / len(channel))


def _length(clip: Clip, window_seconds: float) -> list[RewardFlag]:
    seconds = clip.seconds
    if seconds < SHORT_SECONDS:
        return [RewardFlag("short", f"very short: {seconds:.2f} s; rewards fall with length", True)]
    if seconds > VERY_LONG_SECONDS:
        return [RewardFlag("very_long", f"very long: {seconds:.0f} s; see the timeline", True)]
    if seconds > window_seconds:
        text = f"longer than {window_seconds:g} s: the window policy decides what CLAP hears"
        return [RewardFlag("long", text, False)]
    return []


def _channels(clip: Clip) -> list[RewardFlag]:
    if clip.channels == 1:
        return [RewardFlag("mono", "mono", False)]
    kind = "stereo" if clip.channels == 2 else "multichannel"
    text = f"{kind}: heard as the mean of its {clip.channels} channels"
    flags = [RewardFlag(kind, text, False)]
    lost = _lost_by_averaging_db(clip)
    if lost > CANCELLATION_DB:
        text = f"channels cancel out: their mean is {lost:.1f} dB below them"
        flags.append(RewardFlag("cancelling", text, True))
    return flags


def _lost_by_averaging_db(clip: Clip) -> float:
    """Mean power of the channels over the power of their mean, independent channels as 0 dB."""
    apart = float(np.square(clip.waveform, dtype=np.float64).mean()) / clip.channels
    together = float(np.square(clip.mono, dtype=np.float64).mean())
    if apart == 0.0:
        return 0.0
    return 10 * math.log10(apart / together) if together > 0 else math.inf


def _loudness(lufs: float | None) -> list[RewardFlag]:
    low, high = LOUDNESS_RANGE
    if lufs is None or low <= lufs <= high:
        return []
    code, words = ("quiet", "very quiet") if lufs < low else ("loud", "very loud")
    text = f"{words}: {lufs:.1f} LUFS; {low:g} to {high:g} is usual"
    return [RewardFlag(code, text, True)]
