"""The seams between parts, one Protocol each. Every implementation passes the same contract test.

Shapes: see the legend in `ttmpref.types`. All tensors are float32 on the part's device unless said
otherwise; all encoders are pure functions of their input and never touch global random state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from ttmpref.types import Clip


@runtime_checkable
class TextEncoder(Protocol):
    """Text to a token sequence (the paper's flan-t5-large)."""

    dim: int
    max_tokens: int

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(B, T, dim) last hidden states of all T = max_tokens positions, pads included."""
        ...


@runtime_checkable
class AudioTextEncoder(Protocol):
    """Text and audio in one space (LAION-CLAP).

    Attributes:
        window_samples: the longest stretch of sound heard at once, at `sample_rate`.
    """

    dim: int
    sample_rate: int
    window_samples: int

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """(B, dim), L2-normalised."""
        ...

    def encode_audio(self, clips: Sequence[Clip]) -> Tensor:
        """(B, dim), L2-normalised; clips of any rate and length, mean over explicit windows."""
        ...

    def embed_audio(self, windows: Sequence[Tensor]) -> Tensor:
        """(B, dim), L2-normalised, of mono windows (S,) with 1 <= S <= window_samples.

        Differentiable with respect to the windows.
        """
        ...


@runtime_checkable
class MusicEncoder(Protocol):
    """Music to one vector, words play no part (MERT)."""

    dim: int
    sample_rate: int

    def encode_audio(self, clips: Sequence[Clip]) -> Tensor:
        """(B, dim): mean over time of the last layer; clips of any rate and length."""
        ...

    def embed_audio(self, waveforms: Sequence[Tensor]) -> Tensor:
        """(B, dim) of mono waveforms (S,) at `sample_rate`, S >= 1; differentiable."""
        ...


@runtime_checkable
class Autoencoder(Protocol):
    """Audio to latents and back."""

    sample_rate: int
    latent_channels: int
    samples_per_latent: int

    def encode(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) mono in [-1, 1] to posterior mean and standard deviation, each (B, N, C)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, N, C) to (B, S) mono in [-1, 1], S = N * samples_per_latent."""
        ...


@runtime_checkable
class Backbone(Protocol):
    """Velocity field over normalised latents; t = 1 is noise, t = 0 is data (see `flow`)."""

    def velocity(
        self, latents: Tensor, t: Tensor, conditioning: object, score: Tensor | None
    ) -> Tensor:
        """latents (B, N, C), t (B,) in [0, 1], score (B,) or None; returns (B, N, C)."""
        ...


@runtime_checkable
class Separator(Protocol):
    """A clip to its sources (Demucs); deterministic, without any gain of its own."""

    sources: tuple[str, ...]
    sample_rate: int

    def separate(self, clip: Clip) -> dict[str, Clip]:
        """Every source by name, of the clip's rate, channels and length."""
        ...

    def instrumental(self, clip: Clip, passes: int | None = None) -> Clip:
        """The clip without the sources that the preset removes.

        Args:
            passes: how often; None for as often as the preset says.
        """
        ...


@runtime_checkable
class Vocoder(Protocol):
    """Log-mel to waveform."""

    hop_length: int

    def __call__(self, mel: Tensor) -> Tensor:
        """(B, M, frames) to (B, S) in [-1, 1], S = frames * hop_length."""
        ...
