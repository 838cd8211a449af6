"""Clips of any length through an encoder that hears windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ttmpref.audio import resample, window_starts
from ttmpref.types import Clip

if TYPE_CHECKING:
    from ttmpref.protocols import AudioTextEncoder


@torch.no_grad()
def embed_clips(encoder: AudioTextEncoder, clips: Sequence[Clip]) -> Tensor:
    """(B, dim), L2-normalised; the mean over evenly spread windows that cover each clip."""
    cut = [_windows(encoder, clip) for clip in clips]
    embedded = encoder.embed_audio([window for windows in cut for window in windows])
    means = [part.mean(0) for part in embedded.split([len(windows) for windows in cut])]
    return F.normalize(torch.stack(means), dim=-1)  # (B, dim)


def _windows(encoder: AudioTextEncoder, clip: Clip) -> list[Tensor]:
    """Windows (S,) of a clip at the encoder's rate; a shorter clip is one whole."""
    mono = torch.from_numpy(resample(clip, encoder.sample_rate).mono)
    starts = window_starts(len(mono), encoder.window_samples)
    return [mono[start : start + encoder.window_samples] for start in starts]
