"""Music encoder on log-mels through transformers' Wav2Vec2-BERT, a conformer.

It reads a few mel frames at a time, as their distance from the mean spectrum of what is heard at
once, beside that mean spectrum. So the spectrum as a whole, which tells a dull recording from a
hissing one, and what changes in time are both plain to see: the model's first layer norm would
otherwise take away how loud one moment is beside the next.

Shapes: b segments of S samples, M mel bands, N tokens of F frames, D width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ttmpref.config import MusicEncoderConfig
from ttmpref.encoders.pretrained import load_model
from ttmpref.encoders.segments import SegmentedEncoder
from ttmpref.models.mel import LogMel
from ttmpref.types import DamagedWeights

CENTRE, SPREAD = -5.0, 3.0  # of natural log-mels of music, about


def token_width(config: MusicEncoderConfig) -> int:
    """Numbers in one token."""
    return (config.frames_per_token + 1) * config.mel.num_mels


def mel_tokens(log_mel: Tensor, frames_per_token: int) -> Tensor:
    """(b, M, frames) to (b, N, (F + 1) M); frames that fill no token are left out."""
    size, bands, frames = log_mel.shape
    count = frames // frames_per_token
    frames_first = (log_mel[..., : count * frames_per_token].transpose(1, 2) - CENTRE) / SPREAD
    mean = frames_first.mean(1, keepdim=True)
    changes = (frames_first - mean).reshape(size, count, frames_per_token * bands)
    return torch.cat([changes, mean.expand(-1, count, -1)], dim=2)


class MelBertEncoder(SegmentedEncoder):
    """A Wav2Vec2-BERT over log-mels, as `training.music_encoder` makes one."""

    def __init__(self, config: MusicEncoderConfig, folder: Path, device: str = "cpu") -> None:
        """Load settings and weights.

        Raises:
            MissingWeights, DamagedWeights: the folder lacks a file, or one does not fit.
        """
        from transformers import Wav2Vec2BertModel

        mel = config.mel
        shortest = max(config.frames_per_token * mel.hop_length, mel.n_fft)
        super().__init__(config, shortest, device)
        self._frames = config.frames_per_token
        self._log_mel = LogMel(mel).to(device)
        self._model = load_model(Wav2Vec2BertModel, folder, device)
        found = self._model.config
        for name, has, expected in (
            ("width", found.hidden_size, config.dim),
            ("token width", found.feature_projection_input_dim, token_width(config)),
        ):
            if has != expected:
                raise DamagedWeights(f"{folder}: encoder {name} is {has}, expected {expected}")

    def _last_layer(self, segments: Tensor) -> Tensor:
        tokens = mel_tokens(self._log_mel(segments), self._frames)
        return self._model(input_features=tokens).last_hidden_state
