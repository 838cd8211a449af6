"""The audio that clips are held against: CLAP embeddings of real music, small enough to bundle.

A safetensors file holds them in half precision, with the hash of the CLAP weights that made them: a
distance between embeddings of different networks would be a number without meaning. It may also
hold what the encoders hear of the real clips that the captions describe, which shows what a perfect
model would reach. `python -m benchmarks.reference` makes the demo's from its corpus.

Shapes: m reference clips, n captions, d width of CLAP.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ttmpref import assets
from ttmpref.audio import READABLE_SUFFIXES, read_clip
from ttmpref.config import Preset
from ttmpref.reward.features import RewardFeatures
from ttmpref.reward.ranker import CLAP_AUDIO
from ttmpref.types import Clip, ConfigError, InvalidRequest

FILE, CAPTIONS_FILE = "reference.safetensors", "captions.jsonl"
REAL = "real."  # before the names of the blocks of real clips
SAID_KEY = "said"


def reference_folder(preset: Preset) -> Path:
    """Where captions, reference and tables of a preset are."""
    return assets.assets_folder() / "reference" / preset.name


@dataclass(frozen=True, eq=False)
class Reference:
    """What clips are held against.

    Attributes:
        clap: (m, d) float32, unit long.
        said: where the audio is from, and hashes of the encoders.
        real: audio blocks of the captions' own clips, (n, width) each; may be empty.
    """

    clap: np.ndarray
    said: Mapping[str, Any]
    real: Mapping[str, np.ndarray] = field(default_factory=dict)

    def pack(self) -> bytes:
        """The reference as the contents of its file."""
        arrays = {CLAP_AUDIO: self.clap, **{REAL + name: self.real[name] for name in self.real}}
        halves = {name: torch.from_numpy(rows).half() for name, rows in arrays.items()}
        return assets.pack_tensors(halves, {SAID_KEY: json.dumps(self.said, sort_keys=True)})

    @classmethod
    def read(cls, path: Path, preset: Preset) -> Reference:
        """The reference in a file, made sure to be of the preset's CLAP.

        Blocks of real clips are left out where the preset's other encoders are not those they are
        of.

        Raises:
            ConfigError: it is of another CLAP, or no reference.
            MissingWeights, DamagedWeights: the file is absent or not safetensors.
        """
        tensors = {name: rows.numpy() for name, rows in assets.load_tensors(str(path)).items()}
        said = json.loads(assets.metadata(str(path)).get(SAID_KEY, "{}"))
        if CLAP_AUDIO not in tensors:
            raise ConfigError(f"{path}: not a reference; it lacks {CLAP_AUDIO!r}")
        made_with, now = said.get("encoders", {}), encoders_of(preset)
        if made_with.get("clap") != now["clap"]:
            raise ConfigError(
                f"{path}: made with another CLAP than preset {preset.name!r} has; make it again "
                "(python -m benchmarks.reference) or give a folder of audio"
            )
        real = {}
        if made_with == now:
            real = {name[len(REAL) :]: tensors[name] for name in tensors if name.startswith(REAL)}
        return cls(tensors[CLAP_AUDIO], said, real)

    @classmethod
    def of_folder(cls, folder: Path, features: RewardFeatures, preset: Preset) -> Reference:
        """All audio files in a folder and below; raises `InvalidRequest` for fewer than two."""
        files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in READABLE_SUFFIXES)
        if len(files) < 2:
            raise InvalidRequest(f"{folder}: a reference needs two audio files or more")
        said = {"source": f"{len(files)} files", "encoders": encoders_of(preset)}
        return cls(clap_of((read_clip(file) for file in files), features), said)


def encoders_of(preset: Preset) -> dict[str, str]:
    """Hashes of the encoders that hear clips, by role; a music encoder that is absent has none."""
    found = {"clap": assets.digest(preset.metric_clap.folder)}
    music = preset.music_encoder
    if music is not None and assets.expected_path(music.folder).exists():
        found["music"] = assets.digest(music.folder)
    return found


@torch.no_grad()
def clap_of(clips: Iterable[Clip], features: RewardFeatures) -> np.ndarray:
    """(m, d) CLAP embeddings, one clip in memory at a time."""
    return torch.cat([features.clap.encode_audio([clip]).cpu() for clip in clips]).numpy()


@torch.no_grad()
def blocks_of(clips: Iterable[Clip], features: RewardFeatures) -> dict[str, np.ndarray]:
    """Audio blocks (n, width) of clips, one in memory at a time."""
    rows = [features.of_sound([torch.from_numpy(c.mono)], [c.sample_rate]) for c in clips]
    return {name: torch.cat([row[name] for row in rows]).cpu().numpy() for name in rows[0]}
