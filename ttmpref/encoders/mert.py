"""MERT-class music encoder through transformers' own HuBERT (specification of the ecosystem, 3).

MERT-v1 is HuBERT with other training targets: for the variants without a CQT branch and without
deep normalisation both compute the same numbers. So no code of the model's repository is run, and a
folder that asks for more is refused. The reward uses the last layer's mean over time, so no other
layer is kept.

Shapes: B waveforms of S samples, T frames, D width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ttmpref.audio import resample
from ttmpref.config import MusicEncoderConfig
from ttmpref.encoders.pretrained import load_model, load_settings
from ttmpref.types import Clip, DamagedWeights, MissingWeights

if TYPE_CHECKING:
    from transformers import HubertConfig

SECONDS_PER_BATCH = 80.0  # eight clips of 10 s
SHORTEST_TAIL_SECONDS = 1.0  # a shorter rest joins the segment before it
VARIANCE_FLOOR = 1e-7  # of Wav2Vec2FeatureExtractor
# What HubertModel does not compute, or computes differently.
FOREIGN = ("feature_extractor_cqt", "deepnorm", "conv_pos_batch_norm")
NOT_SETTINGS = ("auto_map", "model_type", "architectures", "transformers_version")


class MertEncoder:
    """See `ttmpref.protocols.MusicEncoder`."""

    def __init__(self, config: MusicEncoderConfig, folder: Path, device: str = "cpu") -> None:
        """Load settings and weights.

        Raises:
            MissingWeights, DamagedWeights: the folder lacks a file, or one does not fit.
        """
        from transformers import HubertModel, Wav2Vec2FeatureExtractor

        self.dim = config.dim
        self.sample_rate = config.sample_rate
        self._segment = round(config.segment_seconds * config.sample_rate)
        self._device = device
        extractor = load_settings(Wav2Vec2FeatureExtractor, folder)
        self._normalise = extractor.do_normalize
        settings = hubert_config(folder)
        for name, found, expected in (
            ("width", settings.hidden_size, self.dim),
            ("sampling rate", extractor.sampling_rate, self.sample_rate),
        ):
            if found != expected:
                raise DamagedWeights(f"{folder}: encoder {name} is {found}, expected {expected}")
        self._shortest = _receptive_field(settings)
        self._model = load_model(HubertModel, folder, device, settings)

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
            hidden = self._last_layer(torch.stack([part for _, part in batch]))  # (b, T, D)
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

    def _last_layer(self, segments: Tensor) -> Tensor:
        """(b, S) to (b, T, D)."""
        segments = segments.to(self._device)
        if self._normalise:
            variance, mean = torch.var_mean(segments, dim=1, correction=0, keepdim=True)
            segments = (segments - mean) / (variance + VARIANCE_FLOOR).sqrt()
        return self._model(input_values=segments).last_hidden_state


def hubert_config(folder: Path) -> HubertConfig:
    """The folder's settings as HuBERT's.

    Raises:
        MissingWeights: there are none.
        DamagedWeights: they cannot be read, or ask for what HuBERT does not compute.
    """
    from transformers import HubertConfig

    path = folder / "config.json"
    if not path.is_file():
        raise MissingWeights(f"config.json is missing: expected at {path}")
    try:
        settings = dict(json.loads(path.read_text(encoding="utf-8")))
        foreign = [name for name in FOREIGN if settings.get(name)]
        kept = {name: value for name, value in settings.items() if name not in NOT_SETTINGS}
        config = HubertConfig(**kept)
    except (OSError, ValueError, TypeError) as error:
        raise DamagedWeights(f"{path}: not settings of an encoder ({error})") from None
    if foreign:
        value = settings[foreign[0]]
        raise DamagedWeights(f"{path}: {foreign[0]} is {value!r}; only false is supported")
    return config


def _receptive_field(config: HubertConfig) -> int:
    """Samples behind one frame; shorter audio has none."""
    samples = 1
    for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
        samples = (samples - 1) * stride + kernel
    return samples
