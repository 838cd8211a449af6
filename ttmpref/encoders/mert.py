"""MERT-class music encoder through transformers' own HuBERT (specification of the ecosystem, 3).

MERT-v1 is HuBERT with other training targets: for the variants without a CQT branch and without
deep normalisation both compute the same numbers. So no code of the model's repository is run, and a
folder that asks for more is refused. The reward uses the last layer's mean over time, so no other
layer is kept.

Shapes: b segments of S samples, T frames, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ttmpref.config import MusicEncoderConfig
from ttmpref.encoders.pretrained import load_model, load_settings
from ttmpref.encoders.segments import SegmentedEncoder
from ttmpref.types import DamagedWeights, MissingWeights

if TYPE_CHECKING:
    from transformers import HubertConfig

VARIANCE_FLOOR = 1e-7  # of Wav2Vec2FeatureExtractor
# What HubertModel does not compute, or computes differently.
FOREIGN = ("feature_extractor_cqt", "deepnorm", "conv_pos_batch_norm")
NOT_SETTINGS = ("auto_map", "model_type", "architectures", "transformers_version")


class MertEncoder(SegmentedEncoder):
    """MERT, or any folder of HuBERT's shape."""

    def __init__(self, config: MusicEncoderConfig, folder: Path, device: str = "cpu") -> None:
        """Load settings and weights.

        Raises:
            MissingWeights, DamagedWeights: the folder lacks a file, or one does not fit.
        """
        from transformers import HubertModel, Wav2Vec2FeatureExtractor

        extractor = load_settings(Wav2Vec2FeatureExtractor, folder)
        self._normalise = extractor.do_normalize
        settings = hubert_config(folder)
        for name, found, expected in (
            ("width", settings.hidden_size, config.dim),
            ("sampling rate", extractor.sampling_rate, config.sample_rate),
        ):
            if found != expected:
                raise DamagedWeights(f"{folder}: encoder {name} is {found}, expected {expected}")
        super().__init__(config, _receptive_field(settings), device)
        self._model = load_model(HubertModel, folder, device, settings)

    def _last_layer(self, segments: Tensor) -> Tensor:
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
