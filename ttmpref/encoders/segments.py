"""Music of any length through an encoder that hears a stretch at once.

Shapes: B waveforms of S samples, b segments, T positions, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ttmpref.audio import resample
from ttmpref.config import MusicEncoderConfig
from ttmpref.types import Clip

SECONDS_PER_BATCH = 80.0  # eight clips of 10 s
SHORTEST_TAIL_SECONDS = 1.0  # a shorter rest joins the segment before it


class SegmentedEncoder(ABC):
    """See `ttmpref.protocols.MusicEncoder`; what a segment becomes is `_last_layer`.

    Args:
        shortest: samples below which a segment is padded with silence.
    """

    def __init__(self, config: MusicEncoderConfig, shortest: int, device: str) -> None:
        self.dim = config.dim
        self.sample_rate = config.sample_rate
        self._segment = round(config.segment_seconds * config.sample_rate)
        self._shortest = shortest
        self._device = device

    @abstractmethod
    def _last_layer(self, segments: Tensor) -> Tensor:
        """(b, S) on the device to (b, T, D)."""

    @torch.no_grad()
    def encode_audio(self, clips: Sequence[Clip]) -> Tensor:
        """(B, D): mean over time of the last layer."""
        resampled = (resample(clip, self.sample_rate).mono for clip in clips)
        return self.embed_audio([torch.from_numpy(mono) for mono in resampled])

    def embed_audio(self, waveforms: Sequence[Tensor]) -> Tensor:
        """(B, D) of mono waveforms (S,) at `sample_rate`; differentiable.

        Segments of equal length share a batch, whichever waveform they come from; nothing is
        padded to the length of another.
        """
        segments = [(i, part) for i, wave in enumerate(waveforms) for part in self._cut(wave)]
        totals = [torch.zeros(self.dim, device=self._device) for _ in waveforms]
        frames = [0] * len(waveforms)
        for batch in self._batches(segments):
            stacked = torch.stack([part for _, part in batch]).to(self._device)
            hidden = self._last_layer(stacked)  # (b, T, D)
            for (i, _), summed in zip(batch, hidden.sum(1), strict=True):
                totals[i] = totals[i] + summed
                frames[i] += hidden.shape[1]
        return torch.stack([total / count for total, count in zip(totals, frames, strict=True)])

    def _cut(self, waveform: Tensor) -> list[Tensor]:
        """Segments (S,); a tail under a second joins the one before, the shortest are padded."""
        tail = len(waveform) % self._segment
        count = max(1, len(waveform) // self._segment)
        if len(waveform) > self._segment and tail >= SHORTEST_TAIL_SECONDS * self.sample_rate:
            count += 1
        ends = [*(i * self._segment for i in range(1, count)), len(waveform)]
        parts = [waveform[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        return [F.pad(part, (0, max(0, self._shortest - len(part)))) for part in parts]

    def _batches(self, segments: list[tuple[int, Tensor]]) -> list[list[tuple[int, Tensor]]]:
        """Segments by length, in batches of at most SECONDS_PER_BATCH."""
        by_length: dict[int, list[tuple[int, Tensor]]] = {}
        for item in segments:
            by_length.setdefault(len(item[1]), []).append(item)
        batches = []
        for length, items in by_length.items():
            size = max(1, int(SECONDS_PER_BATCH * self.sample_rate / length))
            batches += [items[first : first + size] for first in range(0, len(items), size)]
        return batches
