"""CLAP: text and audio in one space (conditioning and metrics).

The network is transformers' or LAION's own (`ttmpref.encoders.clap_laion`); on the same weights
they are equal to rounding (specification of the ecosystem, section 1). Nothing is cropped at
random: longer audio is cut into explicit windows whose embeddings are averaged. The folder holds
weights, tokenizer and feature extractor; the checkpoint's front end (Slaney mel from 50 Hz for the
music checkpoints) is part of it. Its arithmetic is done on tensors here, so that a gradient reaches
the waveform.

Shapes: B texts or clips, W windows, S samples of one, F frequency bins, M mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttmpref.config import ClapConfig
from ttmpref.encoders.pretrained import load_model, load_settings, load_tokenizer
from ttmpref.encoders.windows import embed_clips
from ttmpref.types import Clip, DamagedWeights

if TYPE_CHECKING:
    from transformers import ClapFeatureExtractor

    from ttmpref.encoders.clap_laion import LaionClap
    from ttmpref.protocols import AudioTextEncoder

WINDOWS_PER_BATCH = 8
# Mean cosine of different sounds above which an encoder has collapsed (a public conversion: 0.92).
COLLAPSED = 0.8
POWER_FLOOR = 1e-10


class ClapFrontEnd(nn.Module):
    """What `ClapFeatureExtractor` computes: power spectra, Slaney mel, decibels.

    The spectra are in double precision as there: bands without sound would be rounding noise in
    single.
    """

    def __init__(self, extractor: ClapFeatureExtractor) -> None:
        super().__init__()
        self.samples = extractor.nb_max_samples
        self.n_fft, self.hop_length = extractor.fft_window_size, extractor.hop_length
        basis = torch.from_numpy(extractor.mel_filters_slaney).float()  # (F, M)
        self.register_buffer("basis", basis, persistent=False)
        window = torch.hann_window(self.n_fft, dtype=torch.double)
        self.register_buffer("window", window, persistent=False)

    def forward(self, windows: Sequence[Tensor]) -> Tensor:
        """W windows (S,) in [-1, 1] to (W, 1, frames, M) float32."""
        padded = F.pad(self.filled(windows), (self.n_fft // 2, self.n_fft // 2), mode="reflect")
        frames = padded.unfold(1, self.n_fft, self.hop_length) * self.window  # (W, frames, n_fft)
        spectrum = torch.fft.rfft(frames)
        power = (spectrum.real.square() + spectrum.imag.square()).float()  # (W, frames, F)
        return 10.0 * (power @ self.basis).clamp(min=POWER_FLOOR).log10()[:, None]

    def filled(self, windows: Sequence[Tensor]) -> Tensor:
        """W windows (S,) to (W, samples), each of full length."""
        return torch.stack([self._filled(window) for window in windows])

    def _filled(self, window: Tensor) -> Tensor:
        """A window of full length: repeated whole as often as it fits, then zeros."""
        if not 1 <= len(window) <= self.samples:
            raise ValueError(f"window has {len(window)} samples; 1 to {self.samples} are accepted")
        repeated = window.repeat(self.samples // len(window))
        return F.pad(repeated, (0, self.samples - len(repeated)))


class TransformersClap:
    """The network of transformers, its projections not normalised again."""

    def __init__(self, folder: Path, front_end: ClapFrontEnd, device: str) -> None:
        from transformers import ClapModel

        self._model = load_model(ClapModel, folder, device)
        self._front_end = front_end
        self.dim: int = self._model.config.projection_dim

    def text(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, T) token numbers and attention mask to (B, dim)."""
        return self._model.get_text_features(input_ids=tokens, attention_mask=mask).pooler_output

    def audio(self, windows: Sequence[Tensor]) -> Tensor:
        """W windows (S,) to (W, dim)."""
        return self._model.get_audio_features(self._front_end(windows)).pooler_output


def _network(
    config: ClapConfig, folder: Path, front_end: ClapFrontEnd, device: str
) -> TransformersClap | LaionClap:
    """The network that `config.kind` names."""
    if config.kind == "clap_transformers":
        return TransformersClap(folder, front_end, device)
    from ttmpref.encoders.clap_laion import LaionClap

    return LaionClap(folder, front_end.filled, device)


class ClapEncoder:
    """See `ttmpref.protocols.AudioTextEncoder`."""

    def __init__(self, config: ClapConfig, folder: Path, device: str = "cpu") -> None:
        """Load tokenizer, feature extractor and weights.

        Raises:
            MissingWeights, DamagedWeights: the folder lacks a file, or one does not fit.
        """
        from transformers import ClapFeatureExtractor

        self.dim = config.dim
        self.sample_rate = config.sample_rate
        self._max_tokens = config.max_tokens
        self.window_samples = round(config.window_seconds * config.sample_rate)
        self._device = device
        self._tokenizer = load_tokenizer(folder, config.vocabulary)
        extractor = load_settings(ClapFeatureExtractor, folder)
        front_end = ClapFrontEnd(extractor).to(device)
        self._network = _network(config, folder, front_end, device)
        self._check(folder, extractor)

    def _check(self, folder: Path, extractor: ClapFeatureExtractor) -> None:
        """Compare the folder's settings with the preset's; raises `DamagedWeights`."""
        for name, found, expected in (
            ("projection width", self._network.dim, self.dim),
            ("sampling rate", extractor.sampling_rate, self.sample_rate),
            ("window", extractor.nb_max_samples, self.window_samples),
            ("truncation", extractor.truncation, "rand_trunc"),
            ("padding", extractor.padding, "repeatpad"),
            ("top_db", extractor.top_db, None),
        ):
            if found != expected:
                raise DamagedWeights(f"{folder}: CLAP {name} is {found}, expected {expected}")

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """(B, dim), L2-normalised; needs no audio."""
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self._max_tokens,
            return_tensors="pt",
        ).to(self._device)  # fmt: skip
        embedded = self._network.text(tokens.input_ids, tokens.attention_mask)
        return F.normalize(embedded, dim=-1)  # (B, dim)

    def encode_audio(self, clips: Sequence[Clip]) -> Tensor:
        """(B, dim), L2-normalised; the mean over the windows of each clip."""
        return embed_clips(self, clips)

    def embed_audio(self, windows: Sequence[Tensor]) -> Tensor:
        """(W, dim), L2-normalised, of mono windows (S,) at `sample_rate`; differentiable.

        A window shorter than `window_samples` is repeated, as LAION's package does.
        """
        parts = []
        for first in range(0, len(windows), WINDOWS_PER_BATCH):
            batch = [w.to(self._device) for w in windows[first : first + WINDOWS_PER_BATCH]]
            parts.append(F.normalize(self._network.audio(batch), dim=-1))
        return torch.cat(parts)


def similarity(encoder: AudioTextEncoder, text: str, clip: Clip) -> float:
    """The CLAP score: cosine between a text and a clip, -1 to 1."""
    words, sound = encoder.encode_text([text]), encoder.encode_audio([clip])  # (1, dim) each
    return float((words * sound).sum())


@torch.no_grad()
def mean_similarity(encoder: ClapEncoder) -> float:
    """Mean cosine between four sounds that nothing has in common: a tone, noise, clicks, a sweep.

    A trained encoder keeps them apart; one whose front end or weights do not fit hears them alike
    (`COLLAPSED`), and every score it gives is wrong without an error.
    """
    time = torch.arange(encoder.window_samples) / encoder.sample_rate  # (S,)
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    sounds = (
        0.3 * torch.sin(2 * torch.pi * 440 * time),
        0.1 * noise,
        0.5 * (time % 0.5 < 0.002).float(),
        0.3 * torch.sin(2 * torch.pi * (100 + 400 * time) * time),
    )
    embedded = encoder.embed_audio(sounds)  # (4, dim)
    cosines = embedded @ embedded.T
    apart = ~torch.eye(len(sounds), dtype=torch.bool, device=cosines.device)
    return float(cosines[apart].mean())
