"""The classical way from a log-mel to sound, as the vocoder's opponent.

Mel to linear magnitudes by non-negative least squares, then 32 rounds of the fast Griffin-Lim
algorithm (Perraudin et al. 2013, momentum 0.99) from a seeded random phase.

Shapes: mel (B, M, frames), magnitude (B, F, frames), waveform (B, S).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ttmpref.config import MelConfig
from ttmpref.models.mel import LogMel

ROUNDS = 32
MOMENTUM = 0.99
LEAST_SQUARES_STEPS = 40


def magnitude_from_mel(mel: Tensor, basis: Tensor, steps: int = LEAST_SQUARES_STEPS) -> Tensor:
    """The magnitude X >= 0 (B, F, frames) that minimises |basis X - mel|^2.

    Accelerated projected gradient from the clipped pseudo-inverse.

    Args:
        mel: (B, M, frames) linear mel magnitudes.
        basis: (M, F).
    """
    step = 1.0 / torch.linalg.matrix_norm(basis, ord=2).square()
    current = ahead = (torch.linalg.pinv(basis) @ mel).clamp(min=0.0)
    t = 1.0
    for _ in range(steps):
        updated = (ahead - step * (basis.T @ (basis @ ahead - mel))).clamp(min=0.0)
        t_next = (1.0 + math.sqrt(1.0 + 4.0 * t * t)) / 2.0
        ahead = updated + (t - 1.0) / t_next * (updated - current)
        current, t = updated, t_next
    return current


def griffin_lim(
    magnitude: Tensor, n_fft: int, hop: int, rounds: int = ROUNDS, seed: int = 0
) -> Tensor:
    """A waveform (B, (frames - 1) * hop) whose Hann spectra come close to `magnitude`.

    Args:
        magnitude: (B, F, frames), frames centred `hop` apart from sample 0.
        seed: of the first phase.
    """
    window = torch.hann_window(n_fft)
    generator = torch.Generator().manual_seed(seed)
    angles = 2.0 * math.pi * torch.rand(magnitude.shape, generator=generator)
    spectrum = torch.polar(magnitude, angles)
    previous = torch.zeros_like(spectrum)
    for _ in range(rounds):
        waveform = torch.istft(spectrum, n_fft, hop, window=window)
        consistent = torch.stft(waveform, n_fft, hop, window=window, return_complex=True)
        # The accelerated step of the paper, c + a (c - c_previous), up to a factor that the
        # projection on the magnitudes removes.
        aim = consistent - MOMENTUM / (1.0 + MOMENTUM) * previous
        spectrum = magnitude * aim / aim.abs().clamp(min=1e-12)
        previous = consistent
    return torch.istft(spectrum, n_fft, hop, window=window)


def waveform_from_log_mel(log_mel: Tensor, config: MelConfig, seed: int = 0) -> Tensor:
    """(B, M, frames) as `LogMel` makes it to (B, frames * hop), without any learned part."""
    linear = log_mel.exp() if config.log == "natural" else 10.0**log_mel
    magnitude = magnitude_from_mel(linear, LogMel(config).basis)
    waveform = griffin_lim(magnitude, config.n_fft, config.hop_length, seed=seed)
    # Frame f of LogMel is centred at (f + 1/2) hop.
    half = config.hop_length // 2
    return F.pad(waveform, (half, config.hop_length - half)).clamp(-1.0, 1.0)
