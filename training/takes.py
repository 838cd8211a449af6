"""Takes on disk: made once, by several processes, for everybody who hears them.

Faults, loudness and the way through the autoencoder cost more than to encode what comes out, and
the ranker's features and the backbone's latents are of the same takes. So every list of takes is
one array of samples, (takes, samples) int16, filled like the decoded corpus: a run that was stopped
goes on at the row where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

from training.data import CORPUS_RATE, INT16, as_int16, filled
from training.listeners import Listeners, RoundTrip
from training.recipe import recipe_hash
from ttmpref import assets
from ttmpref.audio import resample
from ttmpref.autoencoder import MelAutoencoder
from ttmpref.config import Preset
from ttmpref.types import Clip

log = logging.getLogger(__name__)
REPORT_EVERY = 500


def codec(preset: Preset) -> RoundTrip:
    """A clip's way through the preset's autoencoder and vocoder, padded back to its length."""
    autoencoder = MelAutoencoder.load(preset.autoencoder, assets.load_tensors)

    def round_trip(clip: Clip) -> Clip:
        waveform = torch.from_numpy(resample(clip, autoencoder.sample_rate).mono)[None]
        made = autoencoder.round_trip(waveform)[0, : waveform.shape[1]]
        made = torch.nn.functional.pad(made, (0, waveform.shape[1] - len(made)))
        return resample(Clip(made.numpy()[None], autoencoder.sample_rate), clip.sample_rate)

    return round_trip


class Takes:
    """Takes of one split by name.

    Args:
        names: which.
        folder: of the arrays.
        workers: processes that make what is missing; 1 makes it here.
    """

    def __init__(
        self, listeners: Listeners, preset: Preset, names: Sequence[str], folder: Path, workers: int
    ) -> None:
        self._maker = _Maker(listeners, preset)
        self.names, self._workers = tuple(names), workers
        made_by = hashlib.sha256(json.dumps([self._maker.protocol, self.names]).encode())
        split = listeners.corpus.split
        self.path = folder / f"takes-{made_by.hexdigest()[:16]}.{split}.npy"

    @cached_property
    def waveforms(self) -> np.ndarray:
        """(takes, samples) int16, memory-mapped; made on first use."""
        shape = (len(self.names), self._maker.listeners.samples)
        return filled(self.path, shape, self._fill)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.names)}

    def hear(self, name: str) -> Clip:
        """One of the takes."""
        samples = self.waveforms[self._rows[name]].astype(np.float32) / INT16
        return Clip(samples[None], CORPUS_RATE)

    def _fill(self, target: Path, rows: list[int]) -> Iterator[int]:
        jobs = [(target, row, self.names[row]) for row in rows]
        if self._workers == 1:
            yield from _reported(map(self._maker.write, jobs), len(jobs))
            return
        with ProcessPoolExecutor(
            self._workers, get_context("spawn"), _start, (self._maker,)
        ) as pool:
            yield from _reported(pool.map(_write, jobs, chunksize=4), len(jobs))


Job = tuple[Path, int, str]  # file, row, name


@dataclass(frozen=True)
class _Maker:
    """What a process needs to make takes."""

    listeners: Listeners
    preset: Preset

    @property
    def protocol(self) -> list[str]:
        """What decides the sound of a take of a name."""
        autoencoder = self.preset.autoencoder
        files = autoencoder.vae_weights, autoencoder.vocoder.weights
        return [recipe_hash(self.listeners.recipe), *map(assets.digest, files)]

    @cached_property
    def round_trip(self) -> RoundTrip:
        return codec(self.preset)

    def write(self, job: Job) -> int:
        target, row, name = job
        # Few takes go through the autoencoder, which is loaded for the first that does.
        clip = self.listeners.clip(name, lambda clip: self.round_trip(clip))
        open_memmap(target, mode="r+")[row] = as_int16(clip.mono)
        return row


_maker: _Maker | None = None  # of a worker, set once


def _start(maker: _Maker) -> None:
    global _maker
    torch.set_num_threads(1)
    _maker = maker


def _write(job: Job) -> int:
    assert _maker is not None
    return _maker.write(job)


def _reported(rows: Iterator[int], total: int) -> Iterator[int]:
    for done, row in enumerate(rows, start=1):
        if done % REPORT_EVERY == 0 or done == total:
            log.info("%d of %d takes made", done, total)
        yield row
