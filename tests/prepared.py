"""A folder of captioned tracks and its preparation, small enough for a test."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from training.prepare.catalogue import Catalogue, read_tracks
from training.prepare.recipe import PrepareRecipe
from training.prepare.run import Report, prepare
from training.prepare.work import Order
from ttmpref.audio import write_clip
from ttmpref.config import load_preset
from ttmpref.types import Clip

RECIPE = PrepareRecipe(
    name="test", shortest_seconds=0.5, clips_per_track=3, tracks_per_shard=2, captions_per_shard=2
)
# name -> seconds, rate in Hz, channels
TRACKS = {
    "short.wav": (0.7, 8_000, 1),
    "exact.flac": (1.0, 8_000, 2),
    "stereo.wav": (2.5, 11_025, 2),
    "long.ogg": (6.0, 16_000, 1),
    "deep/last.wav": (3.0, 8_000, 1),
}
CAPTIONS = ("calm piano", "loud drums", "slow jazz", "calm piano", "a bright synthesizer")


def tone(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> Clip:
    """Noise that becomes louder, so that no two stretches are alike."""
    rng = np.random.default_rng(seed)
    rising = np.linspace(0.02, 0.3, round(seconds * rate))
    samples = rising * rng.normal(size=(channels, len(rising)))
    return Clip(samples.clip(-1, 1).astype(np.float32), rate)


def write_tracks(folder: Path) -> Path:
    """Five tracks and `captions.csv`; two tracks share a caption."""
    for seed, (name, values) in enumerate(TRACKS.items()):
        clip = tone(*values, seed=seed)
        if name.endswith(".ogg"):
            write_ogg(clip, folder / name)
        else:
            write_clip(clip, folder / name)
    write_table(folder / "captions.csv", zip(TRACKS, CAPTIONS, strict=True))
    return folder


def write_ogg(clip: Clip, path: Path) -> None:
    import soundfile

    soundfile.write(path, clip.waveform.T, clip.sample_rate)


def write_table(path: Path, rows) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "caption"])
        writer.writerows(rows)
    return path


def order_of(preset: Path, audio: Path, out: Path, recipe: PrepareRecipe = RECIPE) -> Order:
    return Order(load_preset(str(preset)), recipe, audio, out, device="cpu")


def prepared(order: Order, **options) -> Report:
    """Prepare what `captions.csv` names."""
    table = order.audio / order.recipe.captions
    tracks, faults = read_tracks(order.audio, table, order.recipe)
    return prepare(order, Catalogue(tuple(tracks)), faults, **options)


def files_of(out: Path) -> dict[str, bytes]:
    """What readers read, by name: equal for equal data sets."""
    kinds = ("dataset.json", "tracks.jsonl", "shards/*", "text/*")
    paths = (path for kind in kinds for path in out.glob(kind))
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}
