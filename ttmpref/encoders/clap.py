"""CLAP through transformers: text and audio in one space (conditioning and metrics).

Equal to LAION's own package on the same weights (specification of the ecosystem, section 1), but
without its import-time downloads and its random 10 s crop: longer audio is cut into explicit
windows whose embeddings are averaged. The folder holds weights, tokenizer and feature extractor;
the checkpoint's front end (Slaney mel from 50 Hz for the music checkpoints) is part of it. Its
arithmetic is done on tensors here, so that a gradient reaches the waveform.

Shapes: B texts or clips, W windows, S samples of one, F frequency bins, M mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttmpref.audio import resample, window_starts
from ttmpref.config import ClapConfig
from ttmpref.encoders.pretrained import load_extractor, load_model, load_tokenizer
from ttmpref.types import Clip, DamagedWeights

if TYPE_CHECKING:
    from transformers import ClapFeatureExtractor

WINDOWS_PER_BATCH = 8
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
        filled = torch.stack([self._filled(window) for window in windows])
        padded = F.pad(filled, (self.n_fft // 2, self.n_fft // 2), mode="reflect")
        frames = padded.unfold(1, self.n_fft, self.hop_length) * self.window  # (W, frames, n_fft)
        spectrum = torch.fft.rfft(frames)
        power = (spectrum.real.square() + spectrum.imag.square()).float()  # (W, frames, F)
        return 10.0 * (power @ self.basis).clamp(min=POWER_FLOOR).log10()[:, None]

    def _filled(self, window: Tensor) -> Tensor:
        """A window of full length: repeated whole as often as it fits, then zeros."""
        if not 1 <= len(window) <= self.samples:
            raise ValueError(f"window has {len(window)} samples; 1 to {self.samples} are accepted")
        repeated = window.repeat(self.samples // len(window))
        return F.pad(repeated, (0, self.samples - len(repeated)))


class ClapEncoder:
    """See `ttmpref.protocols.AudioTextEncoder`."""

    def __init__(self, config: ClapConfig, folder: Path, device: str = "cpu") -> None:
        """Load tokenizer, feature extractor and weights.

        Raises:
            MissingWeights, DamagedWeights: the folder lacks a file, or one does not fit.
        """
        from transformers import ClapFeatureExtractor, ClapModel

        self.dim = config.dim
        self.sample_rate = config.sample_rate
        self._max_tokens = config.max_tokens
        self.window_samples = round(config.window_seconds * config.sample_rate)
        self._device = device
        self._tokenizer = load_tokenizer(folder, config.vocabulary)
        extractor = load_extractor(ClapFeatureExtractor, folder)
        self._model = load_model(ClapModel, folder, device)
        self._check(folder, extractor)
        self._front_end = ClapFrontEnd(extractor).to(device)

    def _check(self, folder: Path, extractor: ClapFeatureExtractor) -> None:
        """Compare the folder's settings with the preset's; raises `DamagedWeights`."""
        for name, found, expected in (
            ("projection width", self._model.config.projection_dim, self.dim),
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
        output = self._model.get_text_features(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        )
        return F.normalize(output.pooler_output, dim=-1)  # (B, dim)

    @torch.no_grad()
    def encode_audio(self, clips: Sequence[Clip]) -> Tensor:
        """(B, dim), L2-normalised; the mean over the windows of each clip."""
        cut = [self._windows(clip) for clip in clips]
        embedded = self.embed_audio([window for windows in cut for window in windows])
        means = [part.mean(0) for part in embedded.split([len(windows) for windows in cut])]
        return F.normalize(torch.stack(means), dim=-1)  # (B, dim)

    def _windows(self, clip: Clip) -> list[Tensor]:
        """Evenly spread windows (S,) that cover the clip; a shorter clip is one whole."""
        mono = torch.from_numpy(resample(clip, self.sample_rate).mono)
        starts = window_starts(len(mono), self.window_samples)
        return [mono[start : start + self.window_samples] for start in starts]

    def embed_audio(self, windows: Sequence[Tensor]) -> Tensor:
        """(W, dim), L2-normalised, of mono windows (S,) at `sample_rate`; differentiable.

        A window shorter than `window_samples` is repeated, as LAION's package does.
        """
        parts = []
        for first in range(0, len(windows), WINDOWS_PER_BATCH):
            batch = [w.to(self._device) for w in windows[first : first + WINDOWS_PER_BATCH]]
            output = self._model.get_audio_features(input_features=self._front_end(batch))
            parts.append(F.normalize(output.pooler_output, dim=-1))
        return torch.cat(parts)
