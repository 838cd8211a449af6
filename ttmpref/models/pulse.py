"""The pulse of a clip: tempo and metre read from the text, and the mean course that they foretell.

A clip begins on a bar line, so its tempo and metre tell where its beats fall, and with the text
they tell a good part of how the latents move. A small flow network learns none of that by itself:
where all is noise it cannot know where a beat should be. So a small regression tells the *course*,
the mean of the latents at every position given text and metre, and the flow models what the course
leaves (`ttmpref.models.fluxaudio`). Reading beats from the text first is Mustango's idea
(Melechovsky et al. 2024); the paper's network has no such part, and its preset none either.

Shapes: B batch, N latent frames, C latent channels, T text tokens, K metres (pairs of beats per bar
and tempo), F features of a position, W width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttmpref.config import PulseConfig

LAYERS = 2
DROPOUT = 0.2  # in training: a few thousand pieces are soon known by heart
BARS = (4.0, 2.0)  # periods longer than a bar, in bars
UNKNOWN = -1  # in place of a metre: whichever the text makes likeliest


class Pulse(nn.Module):
    """Reads the metre of a prompt and tells the course of its latents.

    Args:
        config: the metres that it knows, and sizes.
        frames, channels: N and C.
        text_dim, pooled_dim: widths of the text encoder's states and of the CLAP vector.
    """

    def __init__(
        self, config: PulseConfig, frames: int, channels: int, text_dim: int, pooled_dim: int
    ) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.register_buffer("positions", positions(config, frames), persistent=False)  # (K, N, F)
        metres, _, features = self.positions.shape
        self.metre = _reader(text_dim + pooled_dim, width, metres)
        self.style = nn.Sequential(
            _reader(text_dim + pooled_dim, width, width), nn.SiLU(), nn.Dropout(DROPOUT)
        )
        self.place = nn.Linear(features, width)
        self.modulation = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(LAYERS))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(LAYERS))
        self.output = nn.Linear(width, channels)

    def train(self, mode: bool = True) -> Pulse:
        """While its weights are frozen it is not in training, whatever surrounds it."""
        return super().train(mode and self.output.weight.requires_grad)

    def likeliest(self, text: Tensor, pooled: Tensor) -> Tensor:
        """(B,) the likeliest metre, given text (B, T, D) and CLAP vector (B, E)."""
        return self.metre(summary(text, pooled)).argmax(1)

    def forward(self, text: Tensor, pooled: Tensor, metre: Tensor | None = None) -> Tensor:
        """The course (B, N, C) of normalised latents.

        Args:
            metre: (B,) known metres; None, or `UNKNOWN` for some, takes the likeliest.
        """
        read = self.likeliest(text, pooled)
        metre = read if metre is None else torch.where(metre == UNKNOWN, read, metre)
        style = self.style(summary(text, pooled))
        h = self.place(self.positions[metre])
        for modulation, layer in zip(self.modulation, self.layers, strict=True):
            scale, shift = modulation(style)[:, None].chunk(2, dim=-1)
            h = h + F.silu(layer(torch.addcmul(shift, h, 1 + scale)))
        return self.output(h)


def _reader(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.SiLU(), nn.Dropout(DROPOUT), nn.Linear(width, outputs)
    )


def summary(text: Tensor, pooled: Tensor) -> Tensor:
    """(B, T, D) and (B, E) to (B, D + E), both of unit scale; the CLAP vector tells no tempo."""
    states = text.mean(1)
    return torch.cat([F.layer_norm(part, part.shape[1:]) for part in (states, pooled)], dim=1)


def positions(config: PulseConfig, frames: int) -> Tensor:
    """(K, N, F): where in the bar, and in two and four bars, each frame of each metre begins.

    Cosines and sines of the harmonics of the bar. Bars of different numbers of beats have features
    of their own, the others' are zero: their accents have nothing in common.
    """
    rates = torch.tensor([1 / bars for bars in BARS] + list(range(1, config.harmonics + 1)))
    blocks = []
    for index, beats in enumerate(config.beats_per_bar):
        for beat_frames in config.beat_frames:
            turns = torch.arange(frames)[:, None] * rates / (beats * beat_frames)  # (N, rates)
            angles = 2 * math.pi * turns
            own = torch.cat((angles.cos(), angles.sin()), dim=1)
            parts = [torch.zeros_like(own)] * len(config.beats_per_bar)
            parts[index] = own
            blocks.append(torch.cat(parts, dim=1))
    return torch.stack(blocks)


def metre_of(config: PulseConfig, beats_per_bar: int, beat_frames: float) -> int:
    """The index of a metre: the known one of the nearest tempo; `UNKNOWN` for other bars.

    Args:
        beat_frames: length of a beat in latent frames.
    """
    if beats_per_bar not in config.beats_per_bar:
        return UNKNOWN
    known = config.beat_frames
    nearest = min(range(len(known)), key=lambda i: abs(math.log(known[i] / beat_frames)))
    return config.beats_per_bar.index(beats_per_bar) * len(known) + nearest


def tempo_of(config: PulseConfig, metre: int, frame_seconds: float) -> tuple[int, float]:
    """Beats per bar and tempo in BPM of a metre."""
    bar, beat = divmod(metre, len(config.beat_frames))
    return config.beats_per_bar[bar], 60.0 / (config.beat_frames[beat] * frame_seconds)
