"""CLAP through transformers: text and audio in one space (conditioning and metrics).

Equal to LAION's own package on the same weights (specification of the ecosystem, section 1), but
without its import-time downloads and its random 10 s crop: longer audio is cut into explicit
windows whose embeddings are averaged. The folder holds weights, tokenizer and feature extractor;
the checkpoint's front end (Slaney mel from 50 Hz for the music checkpoints) is part of it.

Shapes: B texts or clips, W windows, F mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ttmpref.audio import resample
from ttmpref.config import ClapConfig
from ttmpref.encoders.pretrained import load_model, load_tokenizer
from ttmpref.types import Clip, DamagedWeights

WINDOWS_PER_BATCH = 8


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
        self._window = round(config.window_seconds * config.sample_rate)
        self._device = device
        self._tokenizer = load_tokenizer(folder, config.vocabulary)
        self._extractor = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
        self._model = load_model(ClapModel, folder, device)
        self._check(folder)

    def _check(self, folder: Path) -> None:
        """Compare the folder's sizes with the preset's; raises `DamagedWeights`."""
        extractor = self._extractor
        for name, found, expected in (
            ("projection width", self._model.config.projection_dim, self.dim),
            ("sampling rate", extractor.sampling_rate, self.sample_rate),
            ("window", extractor.nb_max_samples, self._window),
            ("truncation", extractor.truncation, "rand_trunc"),
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
        embedded = self._embed([window for windows in cut for window in windows])
        means = [part.mean(0) for part in embedded.split([len(windows) for windows in cut])]
        return F.normalize(torch.stack(means), dim=-1)  # (B, dim)

    def _windows(self, clip: Clip) -> list[np.ndarray]:
        """Evenly spread windows that cover the clip.

        A clip shorter than a window is passed on whole; the extractor repeats it, as LAION's does.
        """
        mono = resample(clip, self.sample_rate).mono
        if len(mono) <= self._window:
            return [mono]
        count = -(-len(mono) // self._window)
        starts = np.linspace(0, len(mono) - self._window, count).round().astype(int)
        return [mono[start : start + self._window] for start in starts]

    def _embed(self, windows: Sequence[np.ndarray]) -> Tensor:
        """(W, dim) normalised embeddings of windows of at most the extractor's length."""
        parts = []
        for first in range(0, len(windows), WINDOWS_PER_BATCH):
            features = self._extractor(
                windows[first : first + WINDOWS_PER_BATCH],
                sampling_rate=self.sample_rate, return_tensors="pt",
            ).input_features.to(self._device)  # fmt: skip  # (W, 1, frames, F)
            output = self._model.get_audio_features(input_features=features)
            parts.append(F.normalize(output.pooler_output, dim=-1))
        return torch.cat(parts)
