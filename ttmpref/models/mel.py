"""Log-mel front end of the autoencoder (backbone specification 2.1; 44.1 kHz by default).

Reflect padding by (n_fft - hop)/2 on both sides and no centring, so that frame f covers the samples
around (f + 1/2) * hop and 10 s at 44.1 kHz give 861 frames.

Shapes: waveform (B, S), magnitude (B, F, frames), mel (B, M, frames).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttmpref.config import MelConfig


def _hz_to_slaney(hz: np.ndarray) -> np.ndarray:
    """Slaney's mel scale: linear (3/200 mel per Hz) to 1 kHz, logarithmic above."""
    linear = 3.0 * hz / 200.0
    logarithmic = 15.0 + 27.0 * np.log(np.maximum(hz, 1e-9) / 1000.0) / np.log(6.4)
    return np.where(hz < 1000.0, linear, logarithmic)


def _slaney_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15.0, 200.0 * mel / 3.0, 1000.0 * 6.4 ** ((mel - 15.0) / 27.0))


def mel_basis(config: MelConfig) -> np.ndarray:
    """(M, F) triangular filters, each scaled to unit area in Hz (Slaney norm), float32."""
    low, high = _hz_to_slaney(np.array([config.f_min, config.f_max]))
    edges = _slaney_to_hz(np.linspace(low, high, config.num_mels + 2))  # (M + 2,)
    bins = np.linspace(0.0, config.sample_rate / 2, config.n_fft // 2 + 1)  # (F,)
    width = np.diff(edges)
    rise = (bins[None] - edges[:-2, None]) / width[:-1, None]
    fall = (edges[2:, None] - bins[None]) / width[1:, None]
    triangles = np.maximum(0.0, np.minimum(rise, fall))
    area = 2.0 / (edges[2:] - edges[:-2])
    return (triangles * area[:, None]).astype(np.float32)


class LogMel(nn.Module):
    """Waveform to log-mel; holds constants only."""

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("basis", torch.from_numpy(mel_basis(config)), persistent=False)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)

    def magnitude(self, waveform: Tensor) -> Tensor:
        """(B, S) in [-1, 1] to (B, F, S // hop) STFT magnitudes; values beyond are clamped."""
        config = self.config
        pad = (config.n_fft - config.hop_length) // 2
        if waveform.dim() != 2 or waveform.shape[1] <= pad:
            raise ValueError(
                f"waveform must be (batch, more than {pad} samples), got {tuple(waveform.shape)}"
            )
        padded = F.pad(waveform.clamp(-1.0, 1.0)[:, None], (pad, pad), mode="reflect")[:, 0]
        spectrum = torch.stft(
            padded,
            config.n_fft,
            config.hop_length,
            window=self.window,
            center=False,
            return_complex=True,
        )
        return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, S) to (B, M, S // hop) log-mel."""
        mel = (self.basis @ self.magnitude(waveform)).clamp(min=self.config.floor)
        return mel.log() if self.config.log == "natural" else mel.log10()
