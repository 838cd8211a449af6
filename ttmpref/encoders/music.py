"""The music encoder that a preset asks for."""

from __future__ import annotations

from pathlib import Path

from ttmpref.config import MusicEncoderConfig
from ttmpref.encoders.mel_bert import MelBertEncoder
from ttmpref.encoders.mert import MertEncoder
from ttmpref.protocols import MusicEncoder

_KINDS = {"hubert": MertEncoder, "wav2vec2_bert": MelBertEncoder}


def music_encoder(config: MusicEncoderConfig, folder: Path, device: str = "cpu") -> MusicEncoder:
    """The encoder of the configuration's kind, from its folder.

    Raises:
        MissingWeights, DamagedWeights: the folder lacks a file, or one does not fit.
    """
    return _KINDS[config.kind](config, folder, device)
