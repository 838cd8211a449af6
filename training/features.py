"""Frozen features that the backbone trains on: latent posteriors and encoded captions.

Encoded once and memory-mapped in half precision: text features are kept per caption, latents per
piece or per window, so nothing is stored twice (the reference repeats the text features for every
clip).

Shapes: latents (pieces or windows, 2, N, C) mean and standard deviation, text (captions, T, D),
pooled (captions, E).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from training.data import CORPUS_RATE, Corpus
from training.loop import write_aside
from ttmpref.protocols import AudioTextEncoder, TextEncoder

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]


def cached(path: Path, total: int, chunk: int, make: Callable[[int, int], Tensor]) -> np.ndarray:
    """Memory-mapped fp16 rows; `make(start, stop)` gives rows start..stop."""

    def save(aside: Path) -> None:
        array = None
        for start in range(0, total, chunk):
            rows = make(start, min(start + chunk, total)).numpy().astype(np.float16)
            if array is None:
                shape = (total, *rows.shape[1:])
                array = open_memmap(aside, mode="w+", dtype=np.float16, shape=shape)
            array[start : start + len(rows)] = rows
        array.flush()

    if not path.exists():
        write_aside(path, save)
    return np.load(path, mmap_mode="r")


@torch.inference_mode()
def latent_features(corpus: Corpus, encode: Encode, folder: Path) -> np.ndarray:
    """(pieces, 2, N, C): posterior mean and standard deviation of whole pieces.

    Args:
        encode: (B, S) audio to posterior mean and standard deviation, each (B, C, N).
    """
    total, samples = corpus.waveforms.shape

    def make(start: int, stop: int) -> Tensor:
        waveform = corpus.cut(np.arange(start, stop), np.zeros(stop - start, int), samples)
        return torch.stack(encode(waveform), dim=1).transpose(2, 3)

    return cached(folder / f"latents.{corpus.split}.npy", total, 4, make)


def bar_windows(corpus: Corpus, samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every window of `samples` samples that begins on a bar line and fits into its piece.

    Returns:
        Rows and start samples of the windows, each (W,), and the first window of every piece and,
        last, W: (pieces + 1,).
    """
    length = corpus.waveforms.shape[1]
    starts = [
        np.round(np.arange(0.0, length - samples + 1, bar_samples(piece.tags))).astype(int)
        for piece in corpus.pieces
    ]
    counts = [len(some) for some in starts]
    rows = np.repeat(np.arange(len(starts)), counts)
    return rows, np.concatenate(starts), np.cumsum([0, *counts])


def bar_samples(tags: dict[str, Any]) -> float:
    """Length of a bar in samples of the decoded corpus."""
    return 60.0 / tags["tempo_bpm"] * tags["beats_per_bar"] * CORPUS_RATE


@torch.inference_mode()
def bar_features(
    corpus: Corpus, encode: Encode, samples: int, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Posteriors (windows, 2, N, C) of `bar_windows`, and the first window of every piece."""
    rows, starts, firsts = bar_windows(corpus, samples)

    def make(start: int, stop: int) -> Tensor:
        waveform = corpus.cut(rows[start:stop], starts[start:stop], samples)
        return torch.stack(encode(waveform), dim=1).transpose(2, 3)

    return cached(folder / f"bars-{samples}.{corpus.split}.npy", len(rows), 12, make), firsts


@torch.inference_mode()
def caption_features(
    corpus: Corpus, text: TextEncoder, clap: AudioTextEncoder, folder: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sequence features, pooled features, and the first caption's row of every piece."""
    captions = [caption for piece in corpus.captions for caption in piece]
    firsts = np.cumsum([0, *(len(piece) for piece in corpus.captions)])
    sequence = cached(
        folder / f"text.{corpus.split}.npy",
        len(captions),
        128,
        lambda a, b: text.encode(captions[a:b]),
    )
    pooled = cached(
        folder / f"pooled.{corpus.split}.npy",
        len(captions),
        128,
        lambda a, b: clap.encode_text(captions[a:b]),
    )
    return sequence, pooled, firsts
