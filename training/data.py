"""What training reads: the corpus as one memory-mapped array per split, and cached features.

The corpus stays FLAC on disk for people; networks want random windows at memory speed, so each
split is decoded once into `waveforms.<split>.npy`, (pieces, samples) int16 mono. Decoding is
resumable per piece: a piece is marked done only after its row is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from training.corpus import PieceRecord, load_index
from ttmpref.audio import read_clip

INT16 = 32_767.0
CORPUS_RATE = 44_100  # Hz, of the decoded arrays


def _decode(job: tuple[Path, Path, int, int]) -> None:
    """Write one piece into its row of the split's array."""
    source, target, row, samples = job
    mono = read_clip(source).mono
    if mono.shape[0] != samples:
        raise ValueError(f"{source}: {mono.shape[0]} samples, expected {samples}")
    open_memmap(target, mode="r+")[row] = as_int16(mono)


def as_int16(samples: np.ndarray) -> np.ndarray:
    """Samples in [-1, 1] as the arrays hold them; values beyond are clamped."""
    return np.rint(samples.clip(-1.0, 1.0) * INT16).astype(np.int16)


def filled(
    path: Path, shape: tuple[int, int], fill: Callable[[Path, list[int]], Iterator[int]]
) -> np.ndarray:
    """(rows, samples) int16, memory-mapped; rows that are missing are filled first.

    Args:
        fill: given the unfinished file and rows of it, fills these in order and yields each when it
            is there. A row counts as done only then, so a stopped run loses what was begun alone.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside, done = path.with_suffix(".part.npy"), path.with_suffix(".done.npy")
        if not (aside.exists() and done.exists()):
            open_memmap(aside, mode="w+", dtype=np.int16, shape=shape).flush()
            open_memmap(done, mode="w+", dtype=np.bool_, shape=shape[:1]).flush()
        marks = open_memmap(done, mode="r+")
        for row in fill(aside, np.flatnonzero(~marks).tolist()):
            marks[row] = True
        done.unlink()
        os.replace(aside, path)
    return np.load(path, mmap_mode="r")


@dataclass(frozen=True)
class Corpus:
    """One split of a built corpus.

    Attributes:
        folder: where `python -m training corpus` wrote.
        split: "train", "validation" or "evaluation".
    """

    folder: Path
    split: str

    def __reduce__(self) -> tuple[type[Corpus], tuple[Path, str]]:
        """Workers get the place alone: a memory map would be pickled as its whole content."""
        return Corpus, (self.folder, self.split)

    @cached_property
    def pieces(self) -> list[PieceRecord]:
        return [piece for piece in load_index(self.folder) if piece.split == self.split]

    @cached_property
    def captions(self) -> list[tuple[str, ...]]:
        return [tuple(piece.captions) for piece in self.pieces]

    @cached_property
    def waveforms(self) -> np.ndarray:
        """(pieces, samples) int16, memory-mapped; decoded on first use."""
        samples = round(self.pieces[0].seconds * CORPUS_RATE)
        path = self.folder / "cache" / f"waveforms.{self.split}.npy"
        return filled(path, (len(self.pieces), samples), self._decode_rows)

    def _decode_rows(self, target: Path, rows: list[int]) -> Iterator[int]:
        samples = round(self.pieces[0].seconds * CORPUS_RATE)
        jobs = [(self.folder / self.pieces[row].file, target, row, samples) for row in rows]
        with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
            for row, _ in zip(rows, pool.map(_decode, jobs, chunksize=8), strict=True):
                yield row

    def windows(self, count: int, samples: int, generator: torch.Generator) -> Tensor:
        """(count, samples) float32 random windows of random pieces."""
        rows, starts = self.draw(count, samples, generator)
        return self.cut(rows, starts, samples)

    def draw(
        self, count: int, samples: int, generator: torch.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and start samples of `count` random windows."""
        total, length = self.waveforms.shape
        rows = torch.randint(total, (count,), generator=generator).numpy()
        starts = torch.randint(length - samples + 1, (count,), generator=generator).numpy()
        return rows, starts

    def cut(self, rows: np.ndarray, starts: np.ndarray, samples: int) -> Tensor:
        """(B, samples) float32 windows at the given places."""
        pairs = zip(rows, starts, strict=True)
        windows = np.stack([self.waveforms[row, start : start + samples] for row, start in pairs])
        return torch.from_numpy(windows.astype(np.float32) / INT16)

    def fixed_windows(self, count: int, samples: int) -> Tensor:
        """(count, samples) evenly chosen windows: the same ones every time."""
        total, length = self.waveforms.shape
        rows = np.linspace(0, total - 1, count).round().astype(int)
        starts = (np.arange(count) * 7919 * 512) % (length - samples + 1)
        return self.cut(rows, starts, samples)
