"""Small vocoder for the demo: ConvNeXt blocks at the mel frame rate and an inverse-STFT head.

The network works at the frame rate and the inverse STFT makes the samples, so nothing runs at audio
rate but an FFT. This is what makes 10 s of audio cost a fraction of a second on a CPU (the
full-size system uses BigVGAN v2 behind the same seam). It is spared what signal processing knows:
the mel, spread back over the bins, is the first guess of the magnitude, and tones keep turning at
the frequency of their spectral peak (`ttmpref.models.phase`). It learns the rest: what the guess
lacks, and for every band and frame how much of the phase should run on, be set anew (onsets), or be
noise.

Shapes: mel (B, M, frames), hidden (B, W, frames), spectrum (B, F, frames), waveform (B, S).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttmpref.config import ISTFTVocoderConfig, MelConfig
from ttmpref.models.convnext import ConvNeXtBlock
from ttmpref.models.mel import mel_basis
from ttmpref.models.phase import carry, peak_turns

MAX_LOG_MAGNITUDE = 7.0  # above the largest bin of a full-scale sine under the window in use
MIN_MAGNITUDE = 1e-5  # of the first guess, so that silence has a logarithm
PHASES = 3  # running on, set anew, noise
INITIAL_GATES = (2.0, 0.0, -1.0)  # logits of the three: at first most of the phase runs on
NOISE_FRAMES = 512  # the noise repeats after these, several seconds
NOISE_SEED = 1


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


def noise_phasors(bins: int) -> Tensor:
    """(NOISE_FRAMES, F) random phasors, always the same: equal mels give equal audio."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    angle = 2 * math.pi * torch.rand(NOISE_FRAMES, bins, generator=generator)
    return torch.polar(torch.ones_like(angle), angle)


@dataclass(frozen=True, eq=False)
class Estimate:
    """What the network says of every frame.

    Attributes:
        log_magnitude: (B, frames, F) natural log.
        phase: (B, frames, F) radians, where it is set anew.
        shares: (B, frames, PHASES, M) of the three phases in every band, adding up to 1.
    """

    log_magnitude: Tensor
    phase: Tensor
    shares: Tensor


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
        self.gates = nn.Linear(config.width, PHASES * config.num_mels)
        with torch.no_grad():
            self.gates.bias.copy_(torch.tensor(INITIAL_GATES).repeat_interleave(config.num_mels))
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        spread = spreading(mel)
        self.register_buffer("spreading", spread, persistent=False)
        self.register_buffer("band_of_bin", spread.argmax(1), persistent=False)
        self.register_buffer("noise", noise_phasors(self.bins), persistent=False)

    def estimate(self, mel: Tensor) -> Estimate:
        """What the network says of (B, M, frames) mels."""
        x = self.norm_in(self.embed(mel).transpose(1, 2)).transpose(1, 2)  # (B, W, frames)
        for block in self.blocks:
            x = block(x)
        x = self.norm_out(x.transpose(1, 2))  # (B, frames, W)
        change, phase = self.head(x).chunk(2, dim=-1)
        guess = (mel.exp().transpose(1, 2) @ self.spreading.T).clamp(min=MIN_MAGNITUDE).log()
        shares = self.gates(x).unflatten(-1, (PHASES, -1)).softmax(-2)  # (B, frames, 3, M)
        return Estimate((guess + change).clamp(max=MAX_LOG_MAGNITUDE), phase, shares)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, M, frames) to (B, frames * hop_length) in [-1, 1]."""
        if mel.dim() != 3 or mel.shape[1] != self.config.num_mels:
            raise ValueError(
                f"mel must be (batch, {self.config.num_mels}, frames), got {tuple(mel.shape)}"
            )
        return self.synthesise(self.estimate(mel)).clamp(-1.0, 1.0)

    def synthesise(self, estimate: Estimate) -> Tensor:
        """(B, frames * hop_length) samples."""
        spectrum = estimate.log_magnitude.exp() * self._phasors(estimate)
        return self.overlap_add(spectrum.transpose(1, 2))

    def _phasors(self, estimate: Estimate) -> Tensor:
        """(B, frames, F) mixture of the three phases; shorter than 1 where they disagree."""
        running, anew, noisy = estimate.shares[..., self.band_of_bin].unbind(-2)
        frames = torch.arange(running.shape[1], device=running.device) % NOISE_FRAMES
        others = torch.polar(anew, estimate.phase) + noisy * self.noise[frames]
        hop_fraction = self.hop_length / self.config.n_fft
        turns = peak_turns(estimate.log_magnitude.detach(), hop_fraction)
        return running * carry(turns, running.detach(), others.detach()) + others

    def overlap_add(self, spectrum: Tensor) -> Tensor:
        """(B, F, frames) to samples, framed as `LogMel` does: f is centred at (f + 1/2) * hop."""
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
