"""One track to one file of clips: the work that is handed to any process that can reach the files.

decode once -> mono peak -> evenly spread clips -> stem without voices -> latents, features, rewards

A track of no use is a line of fault, never an error: what stops a run is a full disk, a missing
weight or a mistake of ours.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.prepare.catalogue import Track
from training.prepare.encoders import LATENTS, Encoders
from training.prepare.recipe import PrepareRecipe
from training.prepare.store import (
    FULL_MIX,
    INSTRUMENTAL,
    REWARDS,
    TRACK_MEAN,
    ShardFile,
    Tensors,
    write_part,
    write_text,
)
from ttmpref.audio import cut_or_pad, read_clip, window_starts
from ttmpref.config import Preset
from ttmpref.reward.guards import SILENCE_DB
from ttmpref.types import Clip, InvalidRequest, UnreadableAudio

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What every worker must know; small enough to travel with each job.

    Attributes:
        audio: folder of the files, the same on every machine.
        out: the data set's folder, the same on every machine.
        threads: of torch, in each process.
    """

    preset: Preset
    recipe: PrepareRecipe
    audio: Path
    out: Path
    device: str = "auto"
    threads: int = 1


@dataclass(frozen=True)
class TrackJob:
    """A track of the catalogue, by row."""

    row: int
    track: Track


@dataclass(frozen=True)
class TextJob:
    """Captions of one text file, by number."""

    number: int
    captions: tuple[str, ...]


Job = TrackJob | TextJob


@dataclass(frozen=True)
class Done:
    """What became of a job.

    Attributes:
        clips: written.
        faults: a line for what could not be used.
        text: the file that a `TextJob` made.
        seconds: of each kind of work.
    """

    job: Job
    clips: int = 0
    faults: tuple[str, ...] = ()
    text: ShardFile | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A job whose file has been decoded; `clip` is None where there is none or it cannot be."""

    job: Job
    clip: Clip | None
    faults: tuple[str, ...]
    seconds: dict[str, float]


@contextmanager
def timed(seconds: dict[str, float], kind: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[kind] = seconds.get(kind, 0.0) + time.perf_counter() - began


def load(order: Order, job: Job) -> Loaded:
    """Decode a track, at its peak of the recipe; captions need no loading."""
    seconds: dict[str, float] = {}
    if isinstance(job, TextJob):
        return Loaded(job, None, (), seconds)
    try:
        with timed(seconds, "decode"):
            return Loaded(job, decoded(order, job.track), (), seconds)
    except (UnreadableAudio, InvalidRequest) as error:
        return Loaded(job, None, (str(error),), seconds)


def decoded(order: Order, track: Track) -> Clip:
    """The whole track, scaled so that its mono mix has the recipe's peak.

    Raises:
        UnreadableAudio: it cannot be decoded, or is too short, too long or silent.
    """
    path, recipe = order.audio / track.path, order.recipe
    clip = read_clip(path, recipe.longest_seconds)
    if clip.seconds < recipe.shortest_seconds:
        raise UnreadableAudio(
            f"{path}: {clip.seconds:.1f} s long; {recipe.shortest_seconds:g} s or more are accepted"
        )
    peak = float(np.abs(clip.mono).max())
    if peak <= 10 ** (SILENCE_DB / 20):
        raise UnreadableAudio(f"{path}: silent, below {SILENCE_DB:g} dBFS throughout")
    waveform = clip.waveform if clip.channels <= 2 else clip.mono[None]  # as a separator takes it
    return Clip(waveform * np.float32(recipe.peak / peak), clip.sample_rate)


def finish(order: Order, loaded: Loaded) -> Done:
    """Encode what was loaded, and write it."""
    encoders = _encoders(order.preset, order.recipe, order.device, order.threads)
    job, seconds = loaded.job, loaded.seconds
    if isinstance(job, TextJob):
        with timed(seconds, "text"):
            tensors = encoders.words(job.captions)
        return Done(job, text=write_text(order.out, job.number, tensors), seconds=seconds)
    if loaded.clip is None:
        return Done(job, faults=loaded.faults, seconds=seconds)
    starts, clips = clips_of(loaded.clip, order.preset.output.seconds, order.recipe)
    tensors, faults = encoded(encoders, job, starts, clips, seconds)
    faults = [f"{order.audio / job.track.path}: {fault}" for fault in faults]
    if not tensors:
        return Done(job, faults=tuple(faults), seconds=seconds)
    with timed(seconds, "write"):
        write_part(order.out, job.row, tensors, faults)
    return Done(job, len(tensors["track"]), tuple(faults), seconds=seconds)


def whole(order: Order, job: Job) -> Done:
    """Both steps in one process."""
    return finish(order, load(order, job))


@lru_cache(maxsize=1)
def _encoders(preset: Preset, recipe: PrepareRecipe, device: str, threads: int) -> Encoders:
    """The networks of this process; loaded once for all of its jobs."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    return Encoders(preset, recipe, device)


def clips_of(track: Clip, seconds: float, recipe: PrepareRecipe) -> tuple[list[float], list[Clip]]:
    """Where in the track the clips begin, in seconds, and the clips.

    As few evenly spread ones as cover the track, but no more than the recipe says; a track shorter
    than a clip is padded with silence.
    """
    window = round(seconds * track.sample_rate)
    starts = window_starts(track.samples, window)
    if len(starts) > recipe.clips_per_track:
        spread = np.linspace(0, track.samples - window, recipe.clips_per_track)
        starts = spread.round().astype(int).tolist()
    cuts = (track.waveform[:, start : start + window] for start in starts)
    clips = [cut_or_pad(Clip(cut, track.sample_rate), window) for cut in cuts]
    return [start / track.sample_rate for start in starts], clips


def encoded(
    encoders: Encoders,
    job: TrackJob,
    starts: list[float],
    clips: list[Clip],
    seconds: dict[str, float],
) -> tuple[Tensors, list[str]]:
    """Rows of a shard for the clips of a track, and a line for each clip that is silent.

    Where nothing is left there are no rows.
    """
    stems = clips
    if encoders.separator is not None:
        with timed(seconds, "separate"):
            stems = [encoders.separator.instrumental(clip) for clip in clips]
    kept = [i for i, stem in enumerate(stems) if not _silent(stem)]
    what = "clip" if encoders.separator is None else "stem"
    faults = [f"{what} at {s:.1f} s is silent" for i, s in enumerate(starts) if i not in kept]
    if not kept:
        return {}, faults
    sounds = [stems[i] for i in kept]
    with timed(seconds, "latents"):
        latents = encoders.latents(sounds)
    tensors = {
        "latents": latents,
        "track": torch.full((len(kept),), job.row, dtype=torch.int32),
        "start": torch.tensor([starts[i] for i in kept], dtype=torch.float32),
    }
    if encoders.scorer is not None:
        with timed(seconds, "rewards"):
            blocks = encoders.heard(sounds)
            mix = blocks
            if encoders.separator is not None:
                mix = encoders.heard([clips[i] for i in kept])
            tensors["rewards"] = _rewards(encoders, mix, blocks, job.track.caption)
        tensors |= {name: block.to(LATENTS).cpu() for name, block in blocks.items()}
    return tensors, faults


def _rewards(encoders: Encoders, mix: Tensors, stem: Tensors, caption: str) -> Tensor:
    """(B, 3): of the full mix, of the stem, and the mean of the first over the track."""
    columns = torch.empty(len(next(iter(mix.values()))), len(REWARDS))
    columns[:, FULL_MIX] = encoders.rewards(mix, caption)
    columns[:, INSTRUMENTAL] = columns[:, FULL_MIX]
    if stem is not mix:
        columns[:, INSTRUMENTAL] = encoders.rewards(stem, caption)
    columns[:, TRACK_MEAN] = columns[:, FULL_MIX].mean()
    return columns


def _silent(clip: Clip) -> bool:
    power = float(np.square(clip.mono, dtype=np.float64).mean())
    return power < 10 ** (SILENCE_DB / 10)
