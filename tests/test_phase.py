"""Phases that run on: steady tones stay steady, and every other phasor can take over."""

from __future__ import annotations

import math

import pytest
import torch

from ttmpref.models.phase import carry, peak_turns

N_FFT, HOP = 256, 64
BINS = N_FFT // 2 + 1


def magnitudes_of_sine(frequency: float, frames: int) -> torch.Tensor:
    """(1, frames, F) log magnitudes of a sine of `frequency` bins."""
    time = torch.arange(N_FFT + (frames - 1) * HOP, dtype=torch.float64)
    wave = torch.cos(2 * math.pi * frequency * time / N_FFT)
    window = torch.hann_window(N_FFT, dtype=torch.float64)
    spectrum = torch.stft(wave, N_FFT, HOP, window=window, center=False, return_complex=True)
    return spectrum.abs().clamp(min=1e-7).log().float().T[None]


def overlap_add(spectrum: torch.Tensor) -> torch.Tensor:
    """(frames, F) to samples, Hann windowed."""
    window = torch.hann_window(N_FFT)
    pieces = torch.fft.irfft(spectrum, N_FFT) * window
    out = torch.zeros(N_FFT + (len(pieces) - 1) * HOP)
    for index, piece in enumerate(pieces):
        out[index * HOP : index * HOP + N_FFT] += piece
    return out[N_FFT:-N_FFT]


@pytest.mark.parametrize("frequency", [20.0, 20.3, 33.5, 51.8])
def test_steady_tone_stays_steady(frequency: float) -> None:
    """Carried phases make one line spectrum at the tone's own frequency, on or between bins."""
    log_magnitude = magnitudes_of_sine(frequency, 80)
    turns = peak_turns(log_magnitude, HOP / N_FFT)
    nothing = torch.zeros(log_magnitude.shape, dtype=torch.complex64)
    arrived = carry(turns, torch.ones_like(log_magnitude), nothing)
    wave = overlap_add((log_magnitude.exp() * arrived)[0])
    time = torch.arange(len(wave)) * 2 * math.pi / N_FFT
    # The parabola finds the frequency to within some hundredths of a bin.
    best = max(
        torch.hypot(wave @ torch.cos(f * time), wave @ torch.sin(f * time))
        for f in torch.linspace(frequency - 0.1, frequency + 0.1, 41)
    )
    explained = best / (wave.norm() * math.sqrt(len(wave) / 2))
    assert explained > 0.97


def test_without_weight_the_other_phasors_decide() -> None:
    log_magnitude = torch.randn(2, 6, BINS)
    others = torch.polar(torch.full((2, 6, BINS), 0.3), torch.randn(2, 6, BINS))
    turns = peak_turns(log_magnitude, HOP / N_FFT)
    arrived = carry(turns, torch.zeros(2, 6, BINS), others)
    before = (others / others.abs())[:, :-1]
    expected = before.gather(2, turns.source[:, 1:]) * turns.rotation[:, 1:]
    torch.testing.assert_close(arrived[:, 1:], expected)


def test_phasors_stay_of_unit_length_and_batches_do_not_mix() -> None:
    log_magnitude, weight = torch.randn(3, 20, BINS), torch.rand(3, 20, BINS)
    others = torch.randn(3, 20, BINS, dtype=torch.complex64)
    together = carry(peak_turns(log_magnitude, 0.25), weight, others)
    torch.testing.assert_close(together.abs(), torch.ones_like(weight), rtol=1e-4, atol=1e-4)
    alone = carry(peak_turns(log_magnitude[1:2], 0.25), weight[1:2], others[1:2])
    torch.testing.assert_close(together[1:2], alone)


@pytest.mark.parametrize("level", [0.0, -30.0])
def test_flat_and_silent_frames_are_no_trouble(level: float) -> None:
    turns = peak_turns(torch.full((1, 3, BINS), level), 0.25)
    assert turns.rotation.isfinite().all()
    assert turns.source.min() >= 0 and turns.source.max() < BINS
