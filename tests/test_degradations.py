"""Faults: none at strength 0, more with more, always as loud, the same again from the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

from training.corpus.degradations import KINDS, Degradation, degrade
from ttmpref.loudness import integrated_loudness
from ttmpref.types import Clip

RATE = 16_000


@pytest.fixture(scope="module")
def clip() -> Clip:
    """Three seconds of decaying chords over a bass, stereo."""
    time = np.arange(3 * RATE) / RATE
    beat = np.exp(-6 * (time % 0.5))
    tones = sum(np.sin(2 * np.pi * f * time) / (1 + i) for i, f in enumerate((110, 440, 554, 3000)))
    return Clip(np.stack([0.2 * beat * tones, 0.18 * beat * tones]).astype(np.float32), RATE)


def difference(a: Clip, b: Clip) -> float:
    """Between magnitude spectra, so that a delay of half a period is nothing."""
    spectra = [np.abs(signal.stft(one.mono, nperseg=1024)[2]) for one in (a, b)]
    return float(np.sqrt(np.square(spectra[0] - spectra[1]).mean()))


@pytest.mark.parametrize("kind", KINDS)
def test_strength_zero_is_the_clip_itself(kind: str, clip: Clip) -> None:
    assert np.array_equal(degrade(clip, Degradation(kind, 0.0)).waveform, clip.waveform)


@pytest.mark.parametrize("kind", KINDS)
def test_faults_grow_with_their_strength(kind: str, clip: Clip) -> None:
    distances = [
        np.mean([difference(clip, degrade(clip, Degradation(kind, s, seed))) for seed in range(4)])
        for s in (0.02, 0.35, 0.7, 1.0)
    ]
    pairs = zip(distances, distances[1:], strict=False)
    assert all(b > a for a, b in pairs), distances
    assert distances[-1] > 1.5 * distances[0]


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_degraded_clip_is_as_loud_and_whole(kind: str, strength: float, clip: Clip) -> None:
    """Even one that reaches full scale, where a fault's peaks have no room."""
    full = Clip(clip.waveform / np.abs(clip.waveform).max(), RATE)
    for original in (clip, full):
        made = degrade(original, Degradation(kind, strength, 3))
        assert made.waveform.shape == clip.waveform.shape
        assert np.isfinite(made.waveform).all() and np.abs(made.waveform).max() <= 1.0
        assert integrated_loudness(made) == pytest.approx(integrated_loudness(original), abs=0.1)


def test_a_clip_too_short_for_a_loudness_keeps_its_mean_square(clip: Clip) -> None:
    short = Clip(clip.waveform[:, : RATE // 10], RATE)
    made = degrade(short, Degradation("hiss", 0.5))
    levels = [np.square(one.waveform).mean() for one in (made, short)]
    assert levels[0] == pytest.approx(levels[1], rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_samples(kind: str, clip: Clip) -> None:
    first, again = (degrade(clip, Degradation(kind, 0.5, 7)).waveform for _ in range(2))
    assert np.array_equal(first, again)


@pytest.mark.parametrize("kind", KINDS)
def test_silence_stays_silence(kind: str) -> None:
    silence = Clip(np.zeros((1, 4000), np.float32), 8000)
    assert not degrade(silence, Degradation(kind, 1.0)).waveform.any()


def test_unknown_kinds_and_strengths_are_refused() -> None:
    with pytest.raises(ValueError, match="accepted: hiss"):
        Degradation("boredom", 0.5)
    with pytest.raises(ValueError, match="must lie in 0 to 1"):
        Degradation("hiss", 1.5)
