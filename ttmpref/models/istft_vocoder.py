"""Small vocoder for the demo: ConvNeXt blocks at the mel frame rate and an inverse-STFT head.

The head predicts one magnitude and one phase per frequency bin and frame; the inverse STFT turns
them into samples, so nothing runs at audio rate but an FFT. This is what makes 10 s of audio cost a
fraction of a second on a CPU (the full-size system uses BigVGAN v2 behind the same seam). The mel
itself, spread back over the bins, is the first guess of the magnitude: the network learns only what
the guess lacks, which saves most of the training that such a small one could not afford.

Shapes: mel (B, M, frames), hidden (B, W, frames), spectrum (B, F, frames), waveform (B, S).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttmpref.config import ISTFTVocoderConfig, MelConfig
from ttmpref.models.mel import mel_basis

MAX_LOG_MAGNITUDE = 7.0  # above the largest bin of a full-scale sine under the window in use
MIN_MAGNITUDE = 1e-5  # of the first guess, so that silence has a logarithm


def spreading(mel: MelConfig) -> Tensor:
    """(F, M) matrix from mel values back to bin magnitudes.

    Every bin is the weighted mean of the bands that cover it, each band counted at the mean
    magnitude under its filter; the few bins outside all filters take the nearest covered bin.
    """
    basis = torch.from_numpy(mel_basis(mel)).double()  # (M, F)
    weights = basis / basis.sum(0).clamp(min=1e-12)  # per bin, the share of each band
    spread = (weights / basis.sum(1, keepdim=True).clamp(min=1e-12)).T  # (F, M)
    covered = (basis.sum(0) > 1e-6).nonzero()[:, 0]  # rounding leaves traces beyond the last band
    nearest = (torch.arange(basis.shape[1])[:, None] - covered[None]).abs().argmin(1)
    return spread[covered[nearest]].float()


class ConvNeXtBlock(nn.Module):
    """Depthwise kernel-7 convolution, layer norm, pointwise pair, scaled residual."""

    def __init__(self, width: int, hidden: int, initial_scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), initial_scale))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.depthwise(x).transpose(1, 2))  # (B, frames, W)
        h = self.scale * self.contract(F.gelu(self.expand(h)))
        return x + h.transpose(1, 2)


class ISTFTVocoder(nn.Module):
    """Natural log-mel to waveform; S = frames * hop_length.

    Args:
        config: sizes; its framing must be that of `mel`.
        mel: the front end whose mels are read.
    """

    def __init__(self, config: ISTFTVocoderConfig, mel: MelConfig) -> None:
        super().__init__()
        ours = (config.num_mels, config.n_fft, config.hop_length, "natural")
        theirs = (mel.num_mels, mel.n_fft, mel.hop_length, mel.log)
        if ours != theirs:
            raise ValueError(f"the vocoder expects mels {ours}, the front end makes {theirs}")
        self.config = config
        self.hop_length = config.hop_length
        self.bins = config.n_fft // 2 + 1
        self.embed = nn.Conv1d(config.num_mels, config.width, 7, padding=3)
        self.norm_in = nn.LayerNorm(config.width)
        scale = 1.0 / config.num_blocks
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(config.width, config.hidden, scale) for _ in range(config.num_blocks)
        )
        self.norm_out = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 2 * self.bins)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.register_buffer("spreading", spreading(mel), persistent=False)

    def spectrum(self, mel: Tensor) -> Tensor:
        """(B, M, frames) to the complex spectrum (B, F, frames)."""
        x = self.norm_in(self.embed(mel).transpose(1, 2)).transpose(1, 2)  # (B, W, frames)
        for block in self.blocks:
            x = block(x)
        change, phase = self.head(self.norm_out(x.transpose(1, 2))).chunk(2, dim=-1)
        guess = (mel.exp().transpose(1, 2) @ self.spreading.T).clamp(min=MIN_MAGNITUDE).log()
        magnitude = (guess + change).clamp(max=MAX_LOG_MAGNITUDE).exp()
        return torch.polar(magnitude, phase).transpose(1, 2)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, M, frames) to (B, frames * hop_length) in [-1, 1]."""
        if mel.dim() != 3 or mel.shape[1] != self.config.num_mels:
            raise ValueError(
                f"mel must be (batch, {self.config.num_mels}, frames), got {tuple(mel.shape)}"
            )
        return self.overlap_add(self.spectrum(mel)).clamp(-1.0, 1.0)

    def overlap_add(self, spectrum: Tensor) -> Tensor:
        """Inverse STFT with the framing of `LogMel`: frame f is centred at (f + 1/2) * hop."""
        n_fft, hop = self.config.n_fft, self.hop_length
        frames = spectrum.shape[-1]
        pieces = torch.fft.irfft(spectrum, n_fft, dim=1)  # (B, n_fft, frames)
        pieces = pieces * self.window[:, None]
        audio = self._shift_and_add(pieces)
        envelope = self._shift_and_add(self.window.square()[None, :, None].expand(1, -1, frames))
        pad = (n_fft - hop) // 2
        end = pad + frames * hop
        return audio[:, pad:end] / envelope[:, pad:end].clamp(min=1e-3)

    def _shift_and_add(self, pieces: Tensor) -> Tensor:
        """(B, n_fft, frames) to (B, (frames - 1) * hop + n_fft): frame f starts at f * hop."""
        overlap = self.config.n_fft // self.hop_length
        chunks = pieces.unflatten(1, (overlap, self.hop_length)).transpose(2, 3)
        padded = [F.pad(chunks[:, k], (0, 0, k, overlap - 1 - k)) for k in range(overlap)]
        return torch.stack(padded).sum(0).flatten(1)
